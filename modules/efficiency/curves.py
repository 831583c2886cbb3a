"""Loss curves of ours and of PEFT's from equal initial weights: a faster step must compute the same."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modules.efficiency import ways as W
from modules.efficiency.measure import Scenario, free, reason, recover, say
from modules.efficiency.shapes import Batch, build, fixed_batches, sizes
from modules.efficiency.steps import Stepper

STEPS = 30
BATCHES = 3
TARGET = {"roberta": "attn-qv", "gpt2": "c_attn"}
"""What both adapt: PEFT knows no slices of GPT-2's fused map."""
AGREE = {"fp32": 0.01, "bf16": 0.25}
"""The share of the adapter's effect on the losses up to which two curves count as equal."""
RATE = 1e-3
SPREAD = 0.5
"""Standard deviation of what a method starts at zero."""


def compare(
    scenario: Scenario,
    device: torch.device,
    modes: tuple[str, ...],
    *,
    precisions: tuple[str, ...],
) -> list[dict[str, Any]]:
    """A record for each method, precision and mode of ours: both curves and their largest difference.

    PEFT's curve is that of its eager step. No dropout, the same batches, fp32 without TF32; adapters are away from zero
    at the start. ``effect`` is the difference that leaving the adapter out makes: what a difference is measured by.
    """
    config = sizes(scenario.shape)
    master = build(config, device, dropout=False)
    rows, width = (scenario.rows, scenario.width or 48)
    batches = fixed_batches(config, rows, width, device, BATCHES)
    records = []
    for method in scenario.methods:
        if method == "adalora" and config["model_type"] == "gpt2":
            continue  # PEFT's penalty comes with its own loss over all tokens
        options = W.METHODS[method] | scenario.options.get(method, {})
        for precision in precisions:
            record = {"shape": scenario.shape, "method": method, "precision": precision, "steps": STEPS}
            with _full_precision():
                try:
                    reference = _theirs(master, method, options, precision == "bf16", batches)
                    absent = _absent(master, method, options, precision == "bf16", batches)
                    record["effect"] = difference(absent, reference)
                except Exception as error:
                    records.append(record | {"library": "peft", "mode": "eager", "failed": reason(error)})
                    say(f"  {scenario.shape} {method:8} {precision} PEFT failed: {reason(error)}")
                    recover()
                    continue
                for mode in modes:
                    try:
                        losses = _ours(master, method, options, precision == "bf16", batches, mode)
                        found = {"difference": difference(losses, reference), "losses": losses, "peft": reference}
                    except Exception as error:
                        found = {"failed": reason(error)}
                        recover()
                    records.append(record | {"library": "ours", "mode": mode} | found)
                    result = (
                        found.get("failed") or f"difference {found['difference']:.1e} (adapter: {record['effect']:.1e})"
                    )
                    say(f"  {scenario.shape} {method:8} {precision} ours {mode:8} against PEFT: {result}")
                    free(device)
    return records


def difference(losses: list[float], reference: list[float]) -> float:
    """The largest difference of two curves, as a share of the first loss (later ones may be next to nothing)."""
    return max(abs(a - b) for a, b in zip(losses, reference, strict=True)) / abs(reference[0])


def _pair(master: nn.Module, method: str, options: dict[str, Any], bf16: bool) -> tuple[W.Trainee, W.Trainee]:
    """Ours and PEFT's with equal values."""
    from modules.efficiency.peft_ways import equalise, theirs

    target = TARGET[master.config.model_type]
    mine = W.ours(copy.deepcopy(master), method, options, bf16, target)
    other = theirs(copy.deepcopy(master), method, options, bf16, low=False)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in mine.handle.trained().items():
            if not tensor.any() and key not in mine.handle.head:  # a zero hides errors, and AdaLoRA's importances
                tensor.copy_(SPREAD * torch.randn(tensor.shape, generator=rng))
    equalise(mine.handle, other.handle, method)
    return mine, other


def _theirs(master, method: str, options: dict[str, Any], bf16: bool, batches: list) -> list[float]:
    return _run(Stepper(_pair(master, method, options, bf16)[1], "eager", RATE), batches)


def _ours(master, method: str, options: dict[str, Any], bf16: bool, batches: list, mode: str) -> list[float]:
    return _run(Stepper(_pair(master, method, options, bf16)[0], mode, RATE, faithful=True), batches)


def _absent(master, method: str, options: dict[str, Any], bf16: bool, batches: list) -> list[float]:
    """The same without the adapter: its layers are off, the head learns alone (a language model has none)."""
    trainee = _pair(master, method, options, bf16)[0]
    trainee.handle.enable(False)
    trainee.extra = trainee.after = None
    if not trainee.handle.head:
        return _run(torch.no_grad()(trainee.loss), batches)
    return _run(Stepper(trainee, "eager", RATE), batches)


def what(record: dict[str, Any]) -> tuple[str, ...]:
    """Of what a record is: one that is measured again takes the place of the former."""
    return tuple(record[key] for key in ("shape", "method", "precision", "library", "mode"))


def agrees(record: dict[str, Any]) -> bool:
    """Whether the curves of a record count as equal."""
    return record["difference"] <= AGREE[record["precision"]] * record["effect"]


def _run(stepper: Callable[[Batch], Tensor], batches: list) -> list[float]:
    losses = [stepper(batches[i % len(batches)]).detach().float().clone() for i in range(STEPS)]
    return torch.stack(losses).tolist()


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
