"""``run(config) -> RunResult``: trains and scores one (benchmark, task, backbone, variant, seed), or several seeds.

The way of a run: prepare (data, model, objective) -> attach (an adapter for each seed) -> accelerate -> train ->
test -> record. One whose training is over (`RunConfig.trained_as`) takes the adapters over in place of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from modules.backbones.recomputation import checkpoint_blocks
from modules.benchmarks.base import Prepared
from modules.runs.config import RunConfig
from modules.runs.environment import device_name
from modules.runs.results import ResultStore, RunResult
from modules.runs.trainer_options import truncates
from modules.training.acceleration import PlainComputation, accelerate
from modules.training.callbacks import BeforeWriting, DevLosses, MovingAverage
from modules.training.checkpoint import usable
from modules.training.history import History
from modules.training.lightning_module import FineTuner
from modules.training.loggers.callback import Figures
from modules.training.loggers.opened import open_logs
from modules.training.parallel import devices
from modules.training.parallel.sharded import check_shardable
from modules.training.progress import Progress, say
from modules.training.record import agree, make_result, notes, scored_result, take_adapters, trained_before
from modules.training.setup import attach_adapters, optimisation
from modules.training.stacked_seeds import StackedHistory, StackedTuner
from modules.training.trainer import begin, checkpoint_path, fit, interruptible, make_trainer
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.errors import VariantError


def run(config: RunConfig, live: bool | None = None) -> RunResult | None:
    """Train, score and store one run; goes on from its last checkpoint if there is one.

    Args:
        live: show a moving progress bar; by default where standard error is a terminal.

    Returns:
        The result as it was written, or None in a process that is not the first of several.
    """
    return next(iter(run_seeds([config], live)), None)


def run_seeds(
    configs: Sequence[RunConfig], live: bool | None = None, before_writing: Callable[[], object] = lambda: None
) -> list[RunResult]:
    """Train, score and store runs that differ in seeds and learning rates alone; several train at once, as a stack.

    Goes on from the last checkpoint of the very same runs.

    Args:
        live: show a moving progress bar; by default where standard error is a terminal.
        before_writing: called before each evaluation, after which adapters and checkpoints are written, and before the
            result is; what it raises ends the runs without that.

    Returns:
        The results as they were written; none in a process that is not the first of several.

    Raises:
        UserError: model, data or settings cannot be had or do not fit.
        VariantError: the variant does not fit the model.
    """
    records = trained_before(configs)
    over = [config for config in configs if config.id in records]
    scored = _score(over, records, live, before_writing) if over else None
    left = configs if scored is None else [config for config in configs if config.id not in records]
    anew = [dataclasses.replace(config, trained_as=None) for config in left]
    trained = _train(anew, live, before_writing) if anew else []
    results = {result.id: result for result in (*(scored or ()), *trained)}
    return [results[config.id] for config in configs if config.id in results]


# ---- the two ways --------------------------------------------------------------------------------------------------


def _train(configs: Sequence[RunConfig], live: bool | None, before_writing: Callable[[], object]) -> list[RunResult]:
    """As `run_seeds`, of runs that are to be trained."""
    if (ready := _ready(configs)) is None:
        return [result for config in configs for result in _train([config], live, before_writing)]
    first, module, prepared = configs[0], ready.module, ready.prepared
    history = ready.histories[0] if len(configs) == 1 else StackedHistory(ready.histories)
    checkpoint = usable(checkpoint_path(configs), module, ready.title)
    trainer = ready.trainer([history, Progress(ready.shown, history, first.folder, live)], before_writing)
    if decay := first.training.get("ema"):
        trainer.callbacks.insert(0, MovingAverage(decay, ready.handle.variant))
    figures = ready.figures(trainer, goes_on=checkpoint is not None)
    with figures, interruptible():
        if prepared.objective.scores_frozen and not ready.handle.trained():
            trainer.validate(module, datamodule=prepared.data, verbose=False)
        else:
            fit(trainer, module, prepared.data, checkpoint, history)
        metrics, finished = module.metrics_of_each(), history.finished()

        def result(index: int, **known: Any) -> RunResult:
            return make_result(
                configs[index],
                prepared,
                finished[index],
                trainer,
                parameters=ready.counts[index],
                variant_metrics=metrics[index],
                stacked=len(configs),
                reference=ready.computation.reference,
                **known,
            )

        return _tested(ready, trainer, figures, result, before_writing)


def _score(
    configs: Sequence[RunConfig],
    records: Mapping[str, RunResult],
    live: bool | None,
    before_writing: Callable[[], object],
) -> list[RunResult] | None:
    """As `run_seeds`, of runs whose training is over: `records`, by their ids. None where the adapters do not have the
    dev losses of then, and nothing of the model is in memory."""
    if (ready := _ready(configs)) is None:
        return [result for config in configs for result in run_seeds([config], live, before_writing)]
    known = [records[config.id] for config in configs]
    say(ready.shown, configs[0].folder, "trained before, scoring")
    trainer = ready.trainer([losses := DevLosses()], before_writing)
    if not _as_trained(ready, trainer, losses, known):
        if trainer.is_global_zero:
            why = f"the adapters of {configs[0].trained_as} do not have its dev loss here"
            print(f"{ready.title}: {why}: training anew", flush=True)
        ready.computation.release()
        return None
    figures = ready.figures(trainer)
    with figures, interruptible():
        figures.replay(known)
        if trainer.is_global_zero:
            for config, record in zip(configs, known, strict=True):
                take_adapters(config, record, ready.prepared)

        def result(index: int, **own: Any) -> RunResult:
            return scored_result(configs[index], known[index], **own)

        return _tested(ready, trainer, figures, result, before_writing)


def _as_trained(ready: _Ready, trainer: Trainer, losses: DevLosses, records: Sequence[RunResult]) -> bool:
    """Give the adapters the values of the best epoch of their records; whether they have the dev loss of then."""
    try:
        for index, record in enumerate(records):
            ready.module.restore(index, record.folder / "best")
    except VariantError as error:
        print(error, flush=True)
        return False
    with interruptible():
        trainer.validate(ready.module, datamodule=ready.prepared.data, verbose=False)
    return agree(losses.losses, records)


# ---- what they share -----------------------------------------------------------------------------------------------


@dataclass
class _Ready:
    """Runs that train at once, or one, with all that comes before training.

    Attributes:
        counts: the counted parameters of each run.
        precision: Lightning's.
        histories: of each run, empty.
    """

    configs: Sequence[RunConfig]
    prepared: Prepared
    handle: AdaptedModel | Stack
    counts: list[dict[str, int]]
    precision: str
    computation: PlainComputation
    module: FineTuner
    histories: list[History]

    @property
    def title(self) -> str:
        """Such as ``mrpc lora seed 0``, ``mrpc lora seeds 0,1,2`` or ``mrpc lora seed 0, 5 rates``."""
        first = self.configs[0]
        if len(self.configs) == 1:
            return first.title
        seeds = dict.fromkeys(config.seed for config in self.configs)
        rates = {config.training["lr"] for config in self.configs}
        also = f", {len(rates)} rates" if len(rates) > 1 else ""
        return f"{first.task} {first.name} {'seeds' if len(seeds) > 1 else 'seed'} {','.join(map(str, seeds))}{also}"

    @property
    def shown(self) -> str:
        """The title in lines of progress, which say where the runs are cut short."""
        return f"{self.title} (truncated)" if truncates(self.configs[0].trainer) else self.title

    def trainer(self, own: Sequence[Callback], before_writing: Callable[[], object]) -> Trainer:
        """Lightning's Trainer, with the runs' own callbacks."""
        place = checkpoint_path(self.configs)
        trainer = make_trainer(self.configs[0], own, self.precision, place, self.computation.averages)
        trainer.callbacks.insert(0, BeforeWriting(before_writing))
        return trainer

    def figures(self, trainer: Trainer, goes_on: bool = False) -> Figures:
        """What writes the figures of each run to its loggers, a callback of the Trainer's from now on."""
        device = device_name("cuda:0" if devices.on_gpu(self.configs[0]) and torch.cuda.is_available() else "cpu")
        about = {"device": device, "stacked": len(self.configs)}
        metrics = self.prepared.objective.names
        logs = [
            open_logs(config, own, metrics, goes_on, **about)
            for config, own in zip(self.configs, self.counts, strict=True)
        ]
        figures = Figures(self.configs, logs, self.histories)
        trainer.callbacks.insert(-1, figures)  # the last is the checkpoint's, as Lightning wants it
        return figures


def _ready(configs: Sequence[RunConfig]) -> _Ready | None:
    """Model, data and adapters of runs, as they train and are scored; None where they cannot be stacked."""
    first = configs[0]
    begin(first.seed)
    prepared, adapted, counts, precision = attach_adapters(configs)
    try:
        handle = adapted if len(configs) == 1 else Stack(adapted, [config.id for config in configs])
    except VariantError as error:
        print(f"{error}; the runs are trained one after the other", flush=True)
        return None
    if devices.in_shards(first):
        check_shardable(adapted, precision)
    checkpoint_blocks(handle, first.gradient_checkpointing, devices.on_gpu(first))
    computation = accelerate(handle, prepared.data, first, precision)
    module = _module(handle, prepared, computation, configs)
    prepared.model.train()  # from_pretrained leaves it in eval mode, and Lightning keeps what it finds
    histories = [History(prepared.objective.metric, config.folder, notes(config, prepared)) for config in configs]
    return _Ready(configs, prepared, handle, counts, precision, computation, module, histories)


def _tested(
    ready: _Ready,
    trainer: Trainer,
    figures: Figures,
    result_of: Callable[..., RunResult],
    before_writing: Callable[[], object],
) -> list[RunResult]:
    """Score the test set with the best adapter of each run, and write its result; the checkpoints are done with.

    Args:
        result_of: the number of a run, ``test`` and ``wandb_id`` -> its result.
    """
    configs, objective = ready.configs, ready.prepared.objective
    restore = ready.module.restore if ready.handle.trained() else None
    tests = objective.test_each(ready.module, restore, [config.folder for config in configs])
    ready.computation.release()
    if not trainer.is_global_zero:
        return []
    results = []
    for index, config in enumerate(configs):
        result = result_of(index, test=tests[index], wandb_id=figures.logs[index].id)
        before_writing()
        ResultStore(config.results_dir).write(result)
        results.append(result)
        figures.finish(index, result, objective.samples(config.folder))
    for config in configs:
        for file in config.folder.glob("*.ckpt"):
            file.unlink(missing_ok=True)
    return results


def _module(
    handle: AdaptedModel | Stack, prepared: Prepared, computation: PlainComputation, configs: Sequence[RunConfig]
) -> FineTuner:
    """The LightningModule of one adapter or of a stack."""
    options = optimisation(configs[0])
    if isinstance(handle, Stack):
        rates = [config.training["lr"] for config in configs]
        return StackedTuner(handle, prepared.objective, computation, rates=rates, **options)
    return FineTuner(handle, prepared.objective, computation, **options)
