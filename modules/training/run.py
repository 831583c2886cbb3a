"""``run(config) -> RunResult``: trains and scores one (benchmark, task, backbone, variant, seed), or several seeds.

The way of a run: prepare (data, model, objective) -> attach (an adapter for each seed) -> accelerate -> train ->
score -> record. One whose training is over (`RunConfig.trained_as`) takes the adapters over in place of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import Trainer

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
    if (records := trained_before(configs)) and (results := _run(configs, records, live, before_writing)) is not None:
        return results
    anew = [dataclasses.replace(config, trained_as=None) for config in configs]
    return _run(anew, [], live, before_writing)


def _run(
    configs: Sequence[RunConfig], records: Sequence[RunResult], live: bool | None, before_writing: Callable[[], object]
) -> list[RunResult] | None:
    """As `run_seeds`, of runs that were trained before where there are records of that; None where their adapters do
    not have the records' dev losses: nothing of the model is in memory then."""
    first = configs[0]
    begin(first.seed)
    prepared, adapted, counts, precision = attach_adapters(configs)
    try:
        handle = adapted if len(configs) == 1 else Stack(adapted, [config.id for config in configs])
    except VariantError as error:
        print(f"{error}; the runs are trained one after the other", flush=True)
        return [result for config in configs for result in run_seeds([config], live, before_writing)]
    if devices.in_shards(first):
        check_shardable(adapted, precision)
    checkpoint_blocks(handle, first.gradient_checkpointing, devices.on_gpu(first))
    computation = accelerate(handle, prepared.data, first, precision)
    module = _module(handle, prepared, computation, configs)
    prepared.model.train()  # from_pretrained leaves it in eval mode, and Lightning keeps what it finds
    histories = [History(prepared.objective.metric, config.folder, notes(config, prepared)) for config in configs]
    history = histories[0] if len(configs) == 1 else StackedHistory(histories)
    place, title = checkpoint_path(configs), _title(configs)
    checkpoint = usable(place, module, title)
    shown = f"{title} (truncated)" if truncates(first.trainer) else title
    own = [] if records else [history, Progress(shown, history, first.folder, live)]
    trainer = make_trainer(first, own, precision, place, computation.averages)
    trainer.callbacks.insert(0, BeforeWriting(before_writing))
    if decay := first.training.get("ema"):
        trainer.callbacks.insert(0, MovingAverage(decay, handle.variant))
    if records:
        say(shown, first.folder, "trained before, scoring")
        if not _as_trained(trainer, module, prepared, records):
            if trainer.is_global_zero:
                why = f"the adapters of {first.trained_as} do not have its dev loss here"
                print(f"{title}: {why}: training anew", flush=True)
            computation.release()
            return None
    figures = _figures(configs, prepared, histories, counts, checkpoint is not None and not records)
    trainer.callbacks.insert(-1, figures)  # the last is the checkpoint's, as Lightning wants it
    with figures, interruptible():
        if records:
            figures.replay(records)
            if trainer.is_global_zero:
                for config, record in zip(configs, records, strict=True):
                    take_adapters(config, record, prepared)
        elif prepared.objective.scores_frozen and not handle.trained():
            trainer.validate(module, datamodule=prepared.data, verbose=False)
        else:
            fit(trainer, module, prepared.data, checkpoint, history)
        metrics = module.metrics_of_each()
        restore = module.restore if handle.trained() else None
        tests = prepared.objective.test_each(module, restore, [config.folder for config in configs])
        computation.release()
        if not trainer.is_global_zero:
            return []
        results = []
        for index, (config, own) in enumerate(zip(configs, records or history.finished(), strict=True)):
            known = {"test": tests[index], "wandb_id": figures.logs[index].id}
            if records:
                result = scored_result(config, own, **known)
            else:
                result = make_result(
                    config,
                    prepared,
                    own,
                    trainer,
                    parameters=counts[index],
                    variant_metrics=metrics[index],
                    stacked=len(configs),
                    reference=computation.reference,
                    **known,
                )
            before_writing()
            ResultStore(config.results_dir).write(result)
            results.append(result)
            figures.finish(index, result, prepared.objective.samples(config.folder))
    for config in configs:
        for file in config.folder.glob("*.ckpt"):
            file.unlink(missing_ok=True)
    return results


def _as_trained(trainer: Trainer, module: FineTuner, prepared: Prepared, records: Sequence[RunResult]) -> bool:
    """Give the adapters the values of the best epoch of their records; whether they have the dev loss of then."""
    try:
        for index, record in enumerate(records):
            module.restore(index, record.folder / "best")
    except VariantError as error:
        print(error, flush=True)
        return False
    kept = DevLosses()
    trainer.callbacks.insert(0, kept)
    with interruptible():
        trainer.validate(module, datamodule=prepared.data, verbose=False)
    return agree(kept.losses, records)


def _module(
    handle: AdaptedModel | Stack, prepared: Prepared, computation: PlainComputation, configs: Sequence[RunConfig]
) -> FineTuner:
    """The LightningModule of one adapter or of a stack."""
    options = optimisation(configs[0])
    if isinstance(handle, Stack):
        rates = [config.training["lr"] for config in configs]
        return StackedTuner(handle, prepared.objective, computation, rates=rates, **options)
    return FineTuner(handle, prepared.objective, computation, **options)


def _figures(
    configs: Sequence[RunConfig],
    prepared: Prepared,
    histories: Sequence[History],
    counts: Sequence[dict[str, int]],
    goes_on: bool,
) -> Figures:
    """What writes the figures of each run to its loggers."""
    device = device_name("cuda:0" if devices.on_gpu(configs[0]) and torch.cuda.is_available() else "cpu")
    metrics = prepared.objective.names
    logs = [
        open_logs(config, own, metrics, goes_on, device=device, stacked=len(configs))
        for config, own in zip(configs, counts, strict=True)
    ]
    return Figures(configs, logs, histories)


def _title(configs: Sequence[RunConfig]) -> str:
    """Such as ``mrpc lora seed 0``, ``mrpc lora seeds 0,1,2`` or ``mrpc lora seed 0, 5 rates``."""
    first = configs[0]
    if len(configs) == 1:
        return first.title
    seeds, rates = dict.fromkeys(config.seed for config in configs), {config.training["lr"] for config in configs}
    also = f", {len(rates)} rates" if len(rates) > 1 else ""
    return f"{first.task} {first.name} {'seeds' if len(seeds) > 1 else 'seed'} {','.join(map(str, seeds))}{also}"
