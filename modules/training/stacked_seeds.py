"""The seeds of one configuration trained at once: stacked adapters on one frozen backbone, each on its own batches.

Each seed comes out as its run alone would, up to rounding: its order of rows, head, clipping, budget, best epoch and
result are its own. Dropout of the backbone draws other masks than in a run alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from modules.benchmarks.base import benchmark
from modules.benchmarks.objective import Objective
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult, run_id
from modules.training.callbacks import History, Progress, dashboard
from modules.training.lightning_module import FineTuner
from modules.training.record import make_result, notes
from modules.training.setup import initialise, leave_padding_out, optimisation, settle
from modules.training.trainer import begin, fit, make_trainer
from modules.training.wandb_logger import finish_logging, make_logger
from variants.adapters.adapted_model import Adapted
from variants.adapters.stack import Stack
from variants.formats.native import restore
from variants.registry import resolve
from variants.sites.architectures import head_parameters


def run_stacked(configs: Sequence[RunConfig], live: bool | None = None) -> list[RunResult]:
    """Train, score and store runs that differ in their seeds alone; goes on from the last checkpoint of the very same.

    Args:
        live: show a moving progress bar; by default where standard error is a terminal.

    Raises:
        VariantError: the variant cannot be stacked.
    """
    first = configs[0]
    begin(first.seed)
    if first.compile == "inductor":
        torch._dynamo.reset()  # hooks are no part of what decides whether compiled code fits
    prepared, adapted, counts, precision, graphs = _adapters(configs)
    stack = Stack(adapted, [config.id for config in configs])
    leave_padding_out(stack, prepared.data, first)
    module = StackedTuner(stack, prepared.objective, graphs=graphs, **optimisation(first))
    prepared.model.train()
    history = StackedHistory([History(prepared.objective.metric, c.folder, notes(c)) for c in configs])
    checkpoint = first.folder / checkpoint_name(configs)
    seeds = ",".join(str(config.seed) for config in configs)
    progress = Progress(f"{first.task} {first.variant.rpartition(':')[2]} seeds {seeds}", history, live)
    trainer = make_trainer(first, history, progress, precision, checkpoint, None)
    fit(trainer, module, prepared.data, checkpoint)
    results, histories = [], history.finished()
    tests = prepared.objective.test_each(module, module.restore, [config.folder for config in configs])
    for index, (config, own) in enumerate(zip(configs, histories, strict=True)):
        result = make_result(config, prepared, own, trainer)
        result.test = tests[index]
        result.cost |= {"stacked": len(configs), "tokens_per_s": _times(result.cost["tokens_per_s"], len(configs))}
        result.parameters = counts[index]
        with stack.alone(index) as alone:
            result.variant_metrics = alone.metrics()
        result.wandb_id = _log(config, result)
        ResultStore(config.results_dir).write(result)
        results.append(result)
    for config in configs:
        for file in config.folder.glob("*.ckpt"):
            file.unlink(missing_ok=True)
    return results


def checkpoint_name(configs: Iterable[RunConfig]) -> str:
    """A checkpoint serves these very runs together."""
    return f"stacked-{run_id({'runs': [config.id for config in configs]})}.ckpt"


def _adapters(configs: Sequence[RunConfig]) -> tuple:
    """What the first seed's run prepares, an adapter for each seed on its model, and their counted parameters."""
    counts: list[dict[str, int]] = []
    for config in configs:
        variant = resolve(config.variant)(**config.options)
        own = benchmark(config.benchmark).prepare(config)
        if not counts:
            prepared, (precision, graphs) = own, settle(own, config, variant)
            adapted = Adapted(prepared.model, head_parameters(prepared.model))
        head = {name: p.detach().clone() for name, p in own.model.named_parameters() if name in set(adapted.head)}
        adapted.add(config.id, variant, config.seed)
        with torch.no_grad():
            for name, parameter in prepared.model.named_parameters():
                if name in head:
                    parameter.copy_(head[name])
        own.data.fill = graphs
        counts.append(initialise(adapted, config, own.data))
    prepared.data.seeds = [config.seed for config in configs]
    prepared.data.eval_batch_size = max(1, prepared.data.eval_batch_size // len(configs))
    return prepared, adapted, counts, precision, graphs


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale the gradients (S, ...) of each adapter to a norm of at most ``max_norm``, as torch does for one model."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    each = list(zip(*(gradient.unbind() for gradient in gradients), strict=True))
    norms = torch.stack(torch._foreach_norm([part for parts in each for part in parts])).view(len(each), -1)
    scales = (max_norm / (torch.linalg.vector_norm(norms, dim=1) + 1e-6)).clamp(max=1.0)
    for parts, scale in zip(each, scales.unbind(), strict=True):
        torch._foreach_mul_(parts, scale)


class StackedTuner(FineTuner):
    """Trains S stacked adapters, each by its own loss, on batches that hold equally many rows of each."""

    clip = staticmethod(clip_each)

    def __init__(self, stack: Stack, objective: Objective, **options: Any) -> None:
        super().__init__(stack, objective, **options)
        self.objectives = nn.ModuleList(objective.copies(self.size))

    @property
    def size(self) -> int:
        """How many adapters."""
        return self.adapted.size

    def _no_sums(self) -> Tensor:
        return torch.zeros(2, self.size, device=self.device)

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with self.adapted.prepared():
            losses, weights, _ = self.objective.losses(self.model, batch, training=True)
        loss = self.objective.sums(weights * losses, batch, self.size)
        penalty = self.adapted.penalty()
        total = (loss if penalty is None else loss + penalty).sum()
        return total / self.trainer.accumulate_grad_batches if self.graphed else total, loss

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        for objective in self.objectives:
            objective.reset()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        repeated = self.objective.repeated(batch, self.size)
        with self.adapted.prepared():
            losses, weights, outputs = self.objective.losses(self.model, repeated, training=False)
        sums = [self.objective.sums(values, repeated, self.size) for values in (weights * losses, weights)]
        self._eval += torch.stack(sums)
        split = self.trainer.datamodule.eval_splits[dataloader_idx]
        parts = [None] * self.size if outputs is None else outputs.unflatten(0, (self.size, -1))
        for objective, own in zip(self.objectives, parts, strict=True):
            objective.update(own, batch, split)

    def epoch_figures(self) -> list[dict[str, float]]:
        """Losses and metrics of each adapter in the epoch that has just ended."""
        train, evaluation = self._train.T.tolist(), self._eval.T.tolist()
        every = self.objective.figures_of_each(self, self.objectives)
        return [
            {"train_loss": loss / max(steps, 1), "loss": dev / max(weight, 1)} | figures
            for (loss, steps), (dev, weight), figures in zip(train, evaluation, every, strict=True)
        ]

    def restore(self, index: int, folder: Path) -> None:
        """Give one adapter the values that it had when it was saved to ``folder``."""
        with self.adapted.alone(index) as adapted:
            restore(adapted, folder)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return nn.Module.state_dict(self.adapted)

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        self.adapted.load_state_dict(state_dict)


class StackedHistory(History):
    """The history of each seed, and what they cost together. The figures of an epoch are the means over the seeds."""

    def __init__(self, each: Sequence[History]) -> None:
        super().__init__(each[0].metric, each[0].folder, {})
        self.each = list(each)

    def on_validation_end(self, trainer: Trainer, module: StackedTuner) -> None:
        epoch = trainer.current_epoch + 1 if trainer.state.fn == TrainerFn.FITTING else 0
        found = [{"epoch": epoch, **figures} for figures in module.epoch_figures()]
        for index, (own, figures) in enumerate(zip(self.each, found, strict=True)):
            if own.diverged:  # its run alone would have stopped
                continue
            own.take(figures)
            with module.adapted.alone(index) as adapted:
                if own.best is figures:
                    own.save(adapted, "best")
                if own.diverged:
                    own.save(adapted, "last")
        self.take({name: sum(figures[name] for figures in found) / len(found) for name in found[0]} | {"epoch": epoch})
        self.diverged = all(own.diverged for own in self.each)
        trainer.should_stop |= self.diverged

    def on_fit_end(self, trainer: Trainer, module: StackedTuner) -> None:
        for index, own in enumerate(self.each):
            if not own.diverged:
                with module.adapted.alone(index) as adapted:
                    own.save(adapted, "last")

    def finished(self) -> list[History]:
        """The seeds' histories with their share of the steps; times are those of all seeds together."""
        for own in self.each:
            own.step_seconds, own.seconds = self.step_seconds[: len(own.epochs)], self.seconds
            own.steps = self.steps * len(own.epochs) // len(self.epochs)
        return self.each

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"each": [own.state_dict() for own in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "each"})
        for own, state in zip(self.each, state_dict["each"], strict=True):
            own.load_state_dict(state)


def _times(rate: float | None, size: int) -> float | None:
    return None if rate is None else round(rate * size, 1)


def _log(config: RunConfig, result: RunResult) -> str | None:
    """Put a finished run on the dashboard, epoch by epoch: it takes one run at a time."""
    logger = make_logger(config)
    if logger:
        for figures in result.epochs:
            step = result.cost["steps"] * figures["epoch"] // len(result.epochs)
            logger.log_metrics(dashboard(figures, {}), step=step)
    return finish_logging(logger, result)
