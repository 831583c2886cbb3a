"""Loss curves of ours and PEFT's from equal initial weights: a faster step must compute the same."""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.acceleration.cuda_graphs import cause
from modules.efficiency.steps import unets
from modules.efficiency.steps.backbones import Batch, build, is_language_model, sizes
from modules.efficiency.steps.batches import fixed_batches, full_batches
from modules.efficiency.steps.grid import METHODS
from modules.efficiency.steps.implementations import ours
from modules.efficiency.steps.measure import free, say
from modules.efficiency.steps.scenarios import Scenario
from modules.efficiency.steps.stepper import Stepper
from modules.efficiency.steps.trainee import Trainee

STEPS = 30
BATCHES = 3
AGREE = 0.01
"""The share of the adapter's effect on the losses up to which two curves in fp32 count as equal."""
ROUNDED = 2.0
"""Our largest distance from fp32 in bf16, as a multiple of PEFT's, in losses and gradients at equal weights."""
FIGURES = ("difference", "effect", "rounding", "pointwise", "pointwise_rounding", "gradient", "gradient_rounding")
"""Names of a record's figures; see :func:`compare`."""
DRAWS = 3
"""Starting adapters in bf16."""
RATE = 1e-3
"""Learning rate."""


class Curve(NamedTuple):
    """Losses, gradients and weights of every step.

    Attributes:
        losses: before each step.
        gradients: (parameters,) in fp32, after clipping.
        weights: all trained parameters before each step.
    """

    losses: list[float]
    gradients: list[Tensor]
    weights: list[list[Tensor]]


class Run(NamedTuple):
    """A step, its batches and its trained parameters."""

    step: Callable[[Batch], Tensor]
    batches: list[Batch]
    parameters: list[Tensor]

    def curve(self, along: Curve | None = None) -> Curve:
        """The curve of consecutive steps.

        Args:
            along: a curve whose weights are taken before each step.
        """
        found = Curve([], [], [])
        for number in range(STEPS):
            if along:
                for parameter, weight in zip(self.parameters, along.weights[number], strict=True):
                    parameter.detach().copy_(weight.view_as(parameter))
            found.weights.append([p.detach().float().clone() for p in self.parameters])
            found.losses.append(self.step(self.batches[number % len(self.batches)]).item())
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            found.gradients.append(torch.cat([g.float().flatten() for g in gradients]))
        return found


class Case(NamedTuple):
    """The common start of both libraries.

    Attributes:
        master: the backbone.
        batches: of equal width.
        target: of both adapters.
        spread: standard deviation of the starting values of tensors that a method starts at zero.
        draw: seed of the tensors that the method starts at zero.
    """

    master: nn.Module
    method: str
    options: dict[str, Any]
    batches: list[Batch]
    target: str = "attn-qv"
    spread: float = 0.5
    draw: int = 0

    def pair(self, bf16: bool) -> tuple[Trainee, Trainee]:
        """Ours and PEFT's with equal values of all parameters."""
        from modules.efficiency.steps.peft_implementation import equalise, theirs, whole_maps

        target = ",".join(whole_maps(self.master)) if self.target == "attn-qv" else self.target
        mine = ours(copy.deepcopy(self.master), self.method, self.options, bf16, target)
        other = theirs(copy.deepcopy(self.master), self.method, self.options, bf16, False, self.target)
        rng = torch.Generator().manual_seed(5 + self.draw)
        with torch.no_grad():
            for key, tensor in mine.handle.trained().items():
                if not tensor.any() and key not in mine.handle.head:  # a zero hides errors, and AdaLoRA's importances
                    tensor.copy_(self.spread * torch.randn(tensor.shape, generator=rng))
        equalise(mine.handle, other.handle, self.method)
        return mine, other

    def theirs(self, bf16: bool) -> Run:
        """Steps of PEFT's eager implementation."""
        from modules.efficiency.steps.peft_implementation import pairs

        mine, other = self.pair(bf16)
        in_our_order = [parameter for _, parameter in pairs(mine.handle, other.handle, self.method)]
        return Run(Stepper(other, "eager", RATE), self.batches, in_our_order)

    def ours(self, bf16: bool, mode: str) -> Run:
        """Steps of ours in a mode."""
        mine, _ = self.pair(bf16)
        return Run(Stepper(mine, mode, RATE, faithful=True), self.batches, list(mine.handle.trained().values()))

    def absent(self, bf16: bool) -> list[float]:
        """Losses without the adapter: its layers are off, and only the head trains (a language model has none)."""
        trainee = self.pair(bf16)[0]
        trainee.handle.enable(False)
        trainee.extra = trainee.after = None
        step = Stepper(trainee, "eager", RATE) if trainee.handle.head else torch.no_grad()(trainee.loss)
        return [step(self.batches[number % len(self.batches)]).item() for number in range(STEPS)]


def compare(
    scenario: Scenario,
    device: torch.device,
    modes: tuple[str, ...],
    *,
    precisions: tuple[str, ...],
) -> Iterator[dict[str, Any]]:
    """A record for each method, precision and mode of ours: curves and their largest difference.

    PEFT's curve is that of its eager step. There is no dropout, batches are the same, fp32 is without TF32, and
    adapters start away from zero. ``effect`` is the difference that leaving the adapter out makes, the scale of all
    differences. In bf16, where thirty steps amplify rounding errors, figures are medians over several starting adapters
    (``draws``), and ``rounding`` is the distance of PEFT's curve in bf16 from its curve in fp32. Nothing is amplified
    where each step is taken at the weights of PEFT's step in fp32: there ``pointwise`` and ``gradient`` are the
    distances of our losses and gradients from PEFT's in fp32, ``pointwise_rounding`` and ``gradient_rounding`` those of
    PEFT's in bf16.
    """
    config = sizes(scenario.curves or scenario.shape)
    master = build(config, device, dropout=False)
    if scenario.is_unet:
        batches = unets.batches(config, scenario.rows, device, BATCHES)
    elif scenario.decoder:
        batches = full_batches(config, scenario.rows // 2, scenario.width, device, BATCHES)
    else:
        batches = fixed_batches(config, scenario.rows, scenario.width or 48, device, BATCHES)
    for method in scenario.methods:
        if method == "adalora" and is_language_model(config):
            continue  # PEFT's penalty comes with its own loss over all tokens
        options = METHODS[method] | scenario.options.get(method, {})
        case = Case(master, method, options, batches, scenario.target, scenario.spread)
        for precision in precisions:
            bf16 = precision == "bf16"
            shape = scenario.curves or scenario.shape
            record = {
                "shape": shape,
                "method": method,
                "precision": precision,
                "steps": STEPS,
            }
            with _full_precision():
                try:
                    starts = [Start.of(case._replace(draw=draw), bf16) for draw in range(DRAWS if bf16 else 1)]
                except Exception as error:
                    yield record | {"library": "peft", "mode": "eager", "failed": cause(error)}
                    say(f"  {shape} {method:8} {precision} PEFT failed: {cause(error)}")
                    continue
                found = {mode: _measured(starts, bf16, mode) for mode in modes}
            for mode, figures in found.items():
                say(f"  {shape} {method:8} {precision} ours {mode:8} against PEFT: {_in_words(figures)}")
                yield record | {"library": "ours", "mode": mode} | figures
            free(device)


class Start(NamedTuple):
    """A start, and PEFT's curves from it, which every mode of ours is compared with.

    Attributes:
        peft: PEFT's curve.
        exact: PEFT's curve in fp32.
        known: the figures of a record that are PEFT's alone: ``effect`` and, in bf16, those of rounding.
    """

    case: Case
    peft: Curve
    exact: Curve
    known: dict[str, float]

    @classmethod
    def of(cls, case: Case, bf16: bool) -> Start:
        """Compute PEFT's curves."""
        exact = case.theirs(False).curve()
        low = case.theirs(True) if bf16 else None
        peft = low.curve() if low else exact
        known = {"effect": difference(case.absent(bf16), peft.losses)}
        if low:
            known["rounding"] = difference(peft.losses, exact.losses)
            known |= {f"{name}_rounding": far for name, far in _off(low.curve(along=exact), exact).items()}
        return cls(case, peft, exact, known)


def _measured(starts: list[Start], bf16: bool, mode: str) -> dict[str, Any]:
    """Curves from the first start, and medians of the distances over all starts."""
    every: list[dict[str, float]] = []
    curves: dict[str, Any] = {}
    for case, peft, exact, known in starts:
        try:
            run = case.ours(bf16, mode)
            losses, off = run.curve().losses, _off(run.curve(along=exact), exact)
        except Exception as error:
            return known | {"failed": cause(error)}
        every.append({"difference": difference(losses, peft.losses)} | off | known)
        curves = curves or {"losses": losses, "peft": peft.losses}
    medians = {name: statistics.median(figures[name] for figures in every) for name in every[0]}
    return medians | curves | ({"draws": every} if len(starts) > 1 else {})


def _off(curve: Curve, exact: Curve) -> dict[str, float]:
    """Distances of losses (the largest, as a share of the first loss) and of gradients (of all steps together)."""
    gradients, expected = torch.stack(curve.gradients), torch.stack(exact.gradients)
    far = ((gradients - expected).norm() / expected.norm()).item()
    return {"pointwise": difference(curve.losses, exact.losses), "gradient": far}


def _in_words(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return figures["failed"]
    told = f"difference {figures['difference']:.1e} (adapter: {figures['effect']:.1e})"
    if "rounding" in figures:
        told += f", at equal weights {figures['pointwise']:.1e} (rounding alone: {figures['pointwise_rounding']:.1e})"
    return told


def difference(losses: list[float], reference: list[float]) -> float:
    """The largest difference of two curves, as a share of the first loss (later losses may be almost zero)."""
    return max(abs(a - b) for a, b in zip(losses, reference, strict=True)) / abs(reference[0])


def key_of(record: dict[str, Any]) -> tuple[str, ...]:
    """The key of a record: a new record replaces an old one with the same key."""
    return tuple(record[key] for key in ("shape", "method", "precision", "library", "mode"))


def agrees(record: dict[str, Any]) -> bool:
    """Whether both compute the same: in fp32 by the curves, in bf16 by losses and gradients at equal weights."""
    if record["precision"] == "fp32":
        return record["difference"] <= AGREE * record["effect"]
    return all(record[name] <= ROUNDED * record[f"{name}_rounding"] for name in ("pointwise", "gradient"))


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32, in convolutions neither."""
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions
