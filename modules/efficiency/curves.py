"""Loss curves of ours and of PEFT's from equal initial weights: a faster step must compute the same."""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

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
DRAWS = 3
"""Starting adapters in bf16."""
RATE = 1e-3
SPREAD = 0.5
"""Standard deviation of what a method starts at zero."""


class Curve(NamedTuple):
    """The losses of all steps, and the first step's gradient as it was clipped, (parameters,) in fp32."""

    losses: list[float]
    gradient: Tensor


class Case(NamedTuple):
    """What both libraries start from: a backbone, a method with its options, batches of one width, and the draw of
    what the method starts at zero."""

    master: nn.Module
    method: str
    options: dict[str, Any]
    batches: list[Batch]
    draw: int = 0

    def pair(self, bf16: bool) -> tuple[W.Trainee, W.Trainee]:
        """Ours and PEFT's with equal values."""
        from modules.efficiency.peft_ways import equalise, theirs

        target = TARGET[self.master.config.model_type]
        mine = W.ours(copy.deepcopy(self.master), self.method, self.options, bf16, target)
        other = theirs(copy.deepcopy(self.master), self.method, self.options, bf16, low=False)
        rng = torch.Generator().manual_seed(5 + self.draw)
        with torch.no_grad():
            for key, tensor in mine.handle.trained().items():
                if not tensor.any() and key not in mine.handle.head:  # a zero hides errors, and AdaLoRA's importances
                    tensor.copy_(SPREAD * torch.randn(tensor.shape, generator=rng))
        equalise(mine.handle, other.handle, self.method)
        return mine, other

    def theirs(self, bf16: bool) -> Curve:
        """PEFT's, eager."""
        from modules.efficiency.peft_ways import pairs

        mine, other = self.pair(bf16)
        in_our_order = [parameter for _, parameter in pairs(mine.handle, other.handle, self.method)]
        return _curve(Stepper(other, "eager", RATE), self.batches, in_our_order)

    def ours(self, bf16: bool, mode: str) -> Curve:
        mine, _ = self.pair(bf16)
        return _curve(Stepper(mine, mode, RATE, faithful=True), self.batches, mine.handle.trained().values())

    def absent(self, bf16: bool) -> list[float]:
        """Losses without the adapter: its layers are off, the head learns alone (a language model has none)."""
        trainee = self.pair(bf16)[0]
        trainee.handle.enable(False)
        trainee.extra = trainee.after = None
        if not trainee.handle.head:
            return _losses(torch.no_grad()(trainee.loss), self.batches)
        return _losses(Stepper(trainee, "eager", RATE), self.batches)


def compare(
    scenario: Scenario,
    device: torch.device,
    modes: tuple[str, ...],
    *,
    precisions: tuple[str, ...],
) -> Iterator[dict[str, Any]]:
    """A record for each method, precision and mode of ours: curves and their largest difference.

    PEFT's curve is that of its eager step. No dropout, the same batches, fp32 without TF32; adapters are away from zero
    at the start. ``effect`` is the difference that leaving the adapter out makes: what a difference is measured by. In
    bf16, where thirty steps amplify what is rounded, figures are medians over several starting adapters (``draws``),
    and ``rounding`` is how far bf16 takes PEFT's own curve from its curve in fp32. What is not amplified is the first
    step's gradient: ``gradient`` is how far ours is from PEFT's in fp32, as a share of it, ``gradient_rounding`` PEFT's
    own in bf16.
    """
    config = sizes(scenario.shape)
    master = build(config, device, dropout=False)
    batches = fixed_batches(config, scenario.rows, scenario.width or 48, device, BATCHES)
    for method in scenario.methods:
        if method == "adalora" and config["model_type"] == "gpt2":
            continue  # PEFT's penalty comes with its own loss over all tokens
        case = Case(master, method, W.METHODS[method] | scenario.options.get(method, {}), batches)
        for precision in precisions:
            bf16 = precision == "bf16"
            record = {"shape": scenario.shape, "method": method, "precision": precision, "steps": STEPS}
            with _full_precision():
                try:
                    starts = [Start.of(case._replace(draw=draw), bf16) for draw in range(DRAWS if bf16 else 1)]
                except Exception as error:
                    yield record | {"library": "peft", "mode": "eager", "failed": reason(error)}
                    say(f"  {scenario.shape} {method:8} {precision} PEFT failed: {reason(error)}")
                    recover()
                    continue
                found = {mode: _measured(starts, bf16, mode) for mode in modes}
            for mode, figures in found.items():
                say(f"  {scenario.shape} {method:8} {precision} ours {mode:8} against PEFT: {_in_words(figures)}")
                yield record | {"library": "ours", "mode": mode} | figures
            free(device)


class Start(NamedTuple):
    """What every mode of ours is compared with from one start.

    Attributes:
        peft: PEFT's losses.
        exact: PEFT's first gradient in fp32.
        known: the figures of a record that are not ours: ``effect`` and, in bf16, ``rounding``, ``gradient_rounding``.
    """

    case: Case
    peft: list[float]
    exact: Tensor
    known: dict[str, float]

    @classmethod
    def of(cls, case: Case, bf16: bool) -> Start:
        peft = case.theirs(bf16)
        exact = case.theirs(False) if bf16 else peft
        known = {"effect": difference(case.absent(bf16), peft.losses)}
        if bf16:
            known["rounding"] = difference(peft.losses, exact.losses)
            known["gradient_rounding"] = _apart(peft.gradient, exact.gradient)
        return cls(case, peft.losses, exact.gradient, known)


def _measured(starts: list[Start], bf16: bool, mode: str) -> dict[str, Any]:
    """Curves from the first start, and medians over all of how far they are apart."""
    every: list[dict[str, float]] = []
    curves: dict[str, Any] = {}
    for case, peft, exact, known in starts:
        try:
            losses, gradient = case.ours(bf16, mode)
        except Exception as error:
            recover()
            return known | {"failed": reason(error)}
        every.append({"difference": difference(losses, peft), "gradient": _apart(gradient, exact)} | known)
        curves = curves or {"losses": losses, "peft": peft}
    medians = {name: statistics.median(figures[name] for figures in every) for name in every[0]}
    return medians | curves | ({"draws": every} if len(starts) > 1 else {})


def _in_words(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return figures["failed"]
    rounding = f", rounding alone: {figures['rounding']:.1e}" if "rounding" in figures else ""
    return f"difference {figures['difference']:.1e} (adapter: {figures['effect']:.1e}{rounding})"


def difference(losses: list[float], reference: list[float]) -> float:
    """The largest difference of two curves, as a share of the first loss (later ones may be next to nothing)."""
    return max(abs(a - b) for a, b in zip(losses, reference, strict=True)) / abs(reference[0])


def what(record: dict[str, Any]) -> tuple[str, ...]:
    """Of what a record is: one that is measured again takes the place of the former."""
    return tuple(record[key] for key in ("shape", "method", "precision", "library", "mode"))


def agrees(record: dict[str, Any]) -> bool:
    """Whether the curves of a record count as equal."""
    return record["difference"] <= AGREE[record["precision"]] * record["effect"]


def _losses(stepper: Callable[[Batch], Tensor], batches: list[Batch], first: int = 0) -> list[float]:
    losses = [stepper(batches[i % len(batches)]).detach().float().clone() for i in range(first, STEPS)]
    return torch.stack(losses).tolist()


def _curve(stepper: Stepper, batches: list[Batch], parameters: Iterable[Tensor]) -> Curve:
    begun = stepper(batches[0]).detach().float().item()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    gradient = torch.cat([g.detach().float().flatten() for g in gradients])
    return Curve([begun, *_losses(stepper, batches, first=1)], gradient)


def _apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
