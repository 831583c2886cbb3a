"""Seeds and learning rates of one configuration trained at once: stacked adapters on one frozen backbone, each on its
own batches.

Each run comes out as it would alone, up to rounding: its order of rows, head, clipping, budget, best epoch and
result are its own. Dropout of the backbone draws other masks than in a run alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from modules.benchmarks.objective import Objective
from modules.training.acceleration import PlainComputation
from modules.training.history import History, scored_epoch
from modules.training.lightning_module import FineTuner
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.formats.native import restore


class StackedTuner(FineTuner):
    """Trains S stacked adapters, each by its own loss, on batches that hold equally many rows of each.

    Args:
        stack, objective, computation, options: as `FineTuner` takes them.
        rates: the learning rate of each adapter, which counts in place of ``lr``.
    """

    def __init__(
        self,
        stack: Stack,
        objective: Objective,
        computation: PlainComputation | None = None,
        *,
        rates: Sequence[float],
        **options: Any,
    ) -> None:
        super().__init__(stack, objective, computation, **options)
        self.objectives = nn.ModuleList(objective.copies(self.size))
        self.rates = list(rates)
        self._shares: dict[nn.Parameter, Tensor] = {}  # of tensors whose rates differ, (S, 1, ...)

    @property
    def size(self) -> int:
        """How many adapters."""
        return self.adapted.size

    def each(self) -> Iterator[tuple[AdaptedModel, dict[str, Tensor]]]:
        """Each adapter in turn, active, with its gradients."""
        gradients = {name: p.grad for name, p in self.adapted.trained().items() if p.grad is not None}
        for index in range(self.size):
            with self.adapted.alone(index) as adapted:
                yield adapted, {name: gradient[index] for name, gradient in gradients.items()}

    def restore(self, index: int, folder: Path) -> None:
        """Give one adapter the values that it had when it was saved to ``folder``."""
        with self.adapted.alone(index) as adapted:
            restore(adapted, folder)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> None:
        """Scale the gradients of each adapter, together, to a norm of at most ``max_norm``."""
        self.computation.clip_each(parameters, max_norm)

    # ---- learning rates: each adapter may have its own -------------------------------------------------------

    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of one adapter at the highest of the rates, and what share of it each adapter has (``shares``)."""
        every = [self.adapted.param_groups(rate, self.head_lr, self.weight_decay) for rate in self.rates]
        groups, self._shares = [], {}
        for each in zip(*every, strict=True):
            highest = max(group["lr"] for group in each)
            shares = [group["lr"] / (highest or 1.0) for group in each]
            groups.append(each[0] | {"lr": highest, "shares": shares})
            if min(shares) < max(shares):
                for p in each[0]["params"]:
                    self._shares[p] = torch.tensor(shares, device=p.device).view(-1, *[1] * (p.ndim - 1))
        return groups

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """``with`` this, a step of the optimizer at the highest rate, of which each adapter then takes its share.

        An optimizer that works entry by entry, as Adam does, moves a tensor in proportion to the rate, weight decay
        included, and its moments do not depend on it.
        """
        before = {parameter: parameter.detach().clone() for parameter in self._shares}
        yield
        with torch.no_grad():
            for parameter, shares in self._shares.items():
                parameter.copy_(torch.lerp(before[parameter], parameter, shares))

    def _no_sums(self) -> Tensor:
        return torch.zeros(2, self.size, device=self.device)

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(the sum of the adapters' losses, each adapter's own loss (S,))."""
        losses, weights, penalty = self._pass(batch)
        loss = self.objective.sums(weights * losses, batch, self.size)
        return self._share((loss if penalty is None else loss + penalty).sum()), loss

    def on_validation_epoch_start(self) -> None:
        """Begin the sums and metrics of an evaluation, of each adapter."""
        super().on_validation_epoch_start()
        for objective in self.objectives:
            objective.reset()

    def take_in(self, batch: dict[str, Tensor], split: str) -> None:
        """Take an evaluation batch, repeated for each adapter, into its sums and metrics."""
        repeated = self.objective.repeated(batch, self.size)
        with self.computation.forward_pass():
            losses, weights, outputs = self.objective.losses(self.model, repeated, training=False)
        sums = [self.objective.sums(values, repeated, self.size) for values in (weights * losses, weights)]
        self._eval += torch.stack(sums)
        parts = [None] * self.size if outputs is None else outputs.unflatten(0, (self.size, -1))
        for objective, own in zip(self.objectives, parts, strict=True):
            objective.update(own, batch, split)

    def dev_losses(self) -> list[float]:
        """The mean loss of each adapter in the evaluation that has just ended."""
        return [loss / max(weight, 1) for loss, weight in self._eval.T.tolist()]

    def epoch_figures(self) -> list[dict[str, float]]:
        """Losses and metrics of each adapter in the epoch that has just ended."""
        train, means = self._train.T.tolist(), self.dev_losses()
        every = self.objective.figures_of_each(self, self.objectives)
        found = []
        for (loss, steps), mean, figures in zip(train, means, every, strict=True):
            found.append({"train_loss": loss / max(steps, 1), "loss": mean} | self.objective.of_loss(mean) | figures)
        return found

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The stacked tensors."""
        return nn.Module.state_dict(self.adapted)

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        """The stacked tensors; names and shapes must be those of :meth:`state_dict`."""
        self.adapted.load_state_dict(state_dict)


class StackedHistory(History):
    """The history of each run, and what they cost together. Figures are means over runs that go on."""

    def __init__(self, each: Sequence[History]) -> None:
        super().__init__(each[0].metric, each[0].folder, {})
        self.each = list(each)

    def on_validation_end(self, trainer: Trainer, module: StackedTuner) -> None:
        """Take each run's figures and keep its adapter; stop where every run has diverged."""
        epoch = scored_epoch(trainer)
        found = [{"epoch": epoch, **figures} for figures in module.epoch_figures()]
        for index, (history, figures) in enumerate(zip(self.each, found, strict=True)):
            if history.diverged:  # its run alone would have stopped
                continue
            history.take(figures)
            with module.adapted.alone(index) as adapted:
                if history.best is figures:
                    history.save(adapted, "best")
                if history.diverged:
                    history.save(adapted, "last")
        going = [figures for history, figures in zip(self.each, found, strict=True) if not history.diverged] or found
        self.take({name: sum(figures[name] for figures in going) / len(going) for name in found[0]} | {"epoch": epoch})
        self.diverged = all(history.diverged for history in self.each)
        trainer.should_stop |= self.diverged

    def on_fit_end(self, trainer: Trainer, module: StackedTuner) -> None:
        """Keep the last adapter of each run that has not diverged."""
        for index, history in enumerate(self.each):
            if not history.diverged:
                with module.adapted.alone(index) as adapted:
                    history.save(adapted, "last")

    def finished(self) -> list[History]:
        """The runs' histories with their share of the steps; times are those of all runs together."""
        for history in self.each:
            history.step_seconds, history.seconds = self.step_seconds[: len(history.epochs)], self.seconds
            history.steps = self.steps * len(history.epochs) // len(self.epochs)
        return self.each

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, each run's history included."""
        return super().state_dict() | {"each": [history.state_dict() for history in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "each"})
        for history, state in zip(self.each, state_dict["each"], strict=True):
            history.load_state_dict(state)
