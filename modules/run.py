"""``run(config) -> RunResult``: trains and scores one (benchmark, task, backbone, variant, seed)."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import os
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from modules.benchmark import Prepared, benchmark
from modules.callbacks import EpochSeeds, History, Progress
from modules.config import NEUTRAL, RunConfig
from modules.data import PaddedDataModule
from modules.errors import UserError
from modules.lit import FineTuner
from modules.precision import lower_frozen
from modules.results import ResultStore, RunResult, environment
from modules.tracking import make_logger
from modules.unpadded import first_position, unpad
from variants.adapted import Adapted, attach
from variants.files import read_adapter
from variants.registry import resolve
from variants.stacked import Stack
from variants.variant import BaseVariant

CHECKPOINT = "last.ckpt"


def run(config: RunConfig, live: bool | None = None) -> RunResult | None:
    """Train, score and store one run; goes on from its last checkpoint if there is one.

    Args:
        live: show a moving progress bar; by default where standard error is a terminal.

    Returns:
        The result as it was written, or None in a process that is not the first of several.
    """
    begin(config.seed)
    variant = resolve(config.variant)(**config.options)
    prepared = benchmark(config.benchmark).prepare(config)
    data, objective = prepared.data, prepared.objective
    precision, graphs = settle(prepared, config, variant)
    adapted = attach(prepared.model, variant, config.seed)
    counts = initialise(adapted, config, data)
    leave_padding_out(adapted, data, config)
    module = FineTuner(adapted, objective, graphs=graphs, **optimisation(config))
    prepared.model.train()  # from_pretrained leaves it in eval mode, and Lightning keeps what it finds
    history = History(objective.metric, config.folder, notes(config))
    logger = make_logger(config)
    checkpoint = config.folder / CHECKPOINT
    trainer = make_trainer(config, history, Progress(config.title, history, live), precision, checkpoint, logger)
    if objective.scores_frozen and not adapted.trained():
        trainer.validate(module, datamodule=data, verbose=False)
    else:
        fit(trainer, module, data, checkpoint)
    variant_metrics = adapted.metrics()
    test = objective.test(module, adapted, config.folder)
    if not trainer.is_global_zero:
        return None
    result = make_result(config, prepared, history, trainer)
    result.test, result.parameters, result.variant_metrics = test, counts, variant_metrics
    result.wandb_id = finish_logging(logger, result)
    ResultStore(config.results_dir).write(result)
    checkpoint.unlink(missing_ok=True)
    return result


def begin(seed: int) -> None:
    """What comes before all else in the process of a run."""
    quieten()
    seed_everything(seed, verbose=False)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it compiles a kernel for every shape that it meets
    reset_peak_memory()


def settle(prepared: Prepared, config: RunConfig, variant: BaseVariant) -> tuple[str, bool]:
    """Make model and data ready for how steps are carried out: (Lightning's precision, whether as CUDA graphs)."""
    precision = config.training.get("precision", "32-true")
    if precision == "bf16-mixed" and not list(variant.trainable(prepared.model)):
        lower_frozen(prepared.model, torch.bfloat16)  # adapters look after themselves: no autocast is needed
        precision = "32-true"
    graphs = uses_graphs(config, precision)
    prepared.data.fill = graphs  # every batch of a length has one shape
    if on_cpu(config):
        prepared.data.pad_exactly()  # nothing there gains by few shapes
    return precision, graphs


def initialise(adapted: Adapted, config: RunConfig, data: PaddedDataModule) -> dict[str, int]:
    """Give the active adapter what it starts with beyond its own initial values; its parameters, counted."""
    if config.init_from:
        start_from(adapted, Path(config.results_dir) / "runs" / config.init_from["id"] / "best")
    adapted.init_from_data(_few_batches(data))
    return adapted.count()


def leave_padding_out(handle: Adapted | Stack, data: PaddedDataModule, config: RunConfig) -> None:
    """Pack the rows of batches from now on, where the model can take them; torch.compile wants few shapes, and on a CPU
    seeds that are trained at once would have to have equally many tokens."""
    can = len(data.seeds) == 1 if on_cpu(config) else on_gpu(config)
    wanted = config.training.get("pad", "bucket") == "bucket" and config.compile != "inductor"
    if can and wanted and unpad(handle):
        data.pack(first_position(handle.model), rounded=data.fill and not on_cpu(config))


def optimisation(config: RunConfig) -> dict[str, Any]:
    """The training settings that the LightningModule takes."""
    names = ("lr", "head_lr", "weight_decay", "warmup_ratio", "warmup_steps", "adam_eps")
    return {name: config.training[name] for name in names if name in config.training}


def notes(config: RunConfig) -> dict[str, Any]:
    """Readable facts for adapter files."""
    return {"task": config.task, "run": config.id, "spec": config.variant}


def fit(trainer: Trainer, module: FineTuner, data: PaddedDataModule, checkpoint: Path) -> None:
    """Train, from the checkpoint on if it is there."""
    trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)


def make_result(config: RunConfig, prepared: Prepared, history: History, trainer: Trainer) -> RunResult:
    """What a run's file holds; counted parameters and figures beyond the epochs' are left to be filled in."""
    variant = resolve(config.variant)(**config.options)
    return RunResult(
        id=config.id,
        benchmark=config.benchmark,
        task=config.task,
        variant=variant.name,
        variant_config=variant.options(),
        protocol=config.protocol,
        overrides=config.overrides,
        budget=config.budget,
        seed=config.seed,
        backbone={k: config.backbone[k] for k in ("source", "name", "hash")},
        data={k: config.data[k] for k in ("source", "name", "hash")} | {"sizes": prepared.sizes},
        training=config.training,
        trainer={k: v for k, v in config.trainer.items() if k not in NEUTRAL},
        code=config.code,
        init_from=config.init_from,
        metric=prepared.objective.metric,
        epochs=history.epochs,
        best=history.best,
        last=history.last,
        parameters={},
        cost=_cost(history, prepared.data, config),
        environment=environment(str(trainer.strategy.root_device), trainer.world_size)
        | {"runs_at_once": int(os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1"))},
    )


def _few_batches(data: PaddedDataModule, count: int = 8):
    """The first training batches, read only by a variant that asks for them (``init_from_data``)."""
    for index, batch in enumerate(data.train_dataloader()):
        if index == count:
            return
        yield batch


def on_cpu(config: RunConfig) -> bool:
    """Whether the run computes on the CPU."""
    accelerator = config.trainer.get("accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def on_gpu(config: RunConfig) -> bool:
    """Whether the run computes on GPUs."""
    return torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")


def uses_graphs(config: RunConfig, precision: str) -> bool:
    """Whether training steps are replayed as CUDA graphs: on one GPU, not under fp16, whose scale may skip a step."""
    trainer = config.trainer
    alone = trainer.get("devices", 1) in (1, "1") and trainer.get("num_nodes", 1) == 1 and "strategy" not in trainer
    return config.compile != "off" and alone and on_gpu(config) and precision != "16-mixed"


def make_trainer(
    config: RunConfig, history: History, progress: Progress, precision: str, checkpoint: Path, logger: Any | None
) -> Trainer:
    """Lightning's Trainer of a run, which leaves its ``checkpoint`` at the end of each epoch."""
    checkpoints = ModelCheckpoint(
        dirpath=checkpoint.parent,
        filename=checkpoint.stem,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks = [EpochSeeds(config.seed), history, progress, checkpoints]
    if logger:
        callbacks.append(LearningRateMonitor("step"))
    options = {
        "devices": 1,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "log_every_n_steps": 10,
    } | config.trainer
    options["precision"] = precision
    if options.get("strategy", "auto") in ("auto", "ddp") and (options["devices"], options.get("num_nodes", 1)) != (
        1,
        1,
    ):
        # every rank computes the same buffers (a shared bank from its seed): no need to send them at each step
        options["strategy"] = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    try:
        return Trainer(
            max_epochs=config.training["epochs"],
            gradient_clip_val=config.training.get("gradient_clip_val") or None,
            callbacks=callbacks,
            logger=logger or False,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            default_root_dir=config.folder,
            **options,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"lightning.Trainer refuses the options: {str(error).splitlines()[0]}") from error


def start_from(adapted: Adapted, folder: Path) -> None:
    """Take over what another run of the same configuration learnt, where shapes agree.

    The output layer of a task with another number of classes stays fresh, as in the LoRA authors' scripts. State that
    is not trained (AdaLoRA's averages) starts anew.
    """
    _, tensors = read_adapter(folder)
    own, head = adapted.trained(), set(adapted.head)
    for name, parameter in own.items():
        if name in tensors and tensors[name].shape == parameter.shape:
            parameter.data.copy_(tensors[name])
        elif name not in head:
            raise UserError(f"cannot start from {folder}: {name} is not there in the shape that this run needs")


def reset_peak_memory() -> None:
    """Start measuring peak memory here, on the GPU and, where the system lets us, of this process."""
    if torch.cuda.is_available():
        gc.collect()  # what an earlier run of this process had
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Peak MiB: allocated on the GPU if there is one, else resident memory of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cost(history: History, data: PaddedDataModule, config: RunConfig) -> dict[str, Any]:
    tokens = data.tokens_per_epoch * len(history.step_seconds)
    seconds = sum(history.step_seconds) * data.steps_per_epoch
    return {
        "step_ms": round(1000 * statistics.median(history.step_seconds), 3) if history.steps else None,
        "steps": history.steps,
        "tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1) if seconds else None,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "wall_s": round(history.seconds, 2),
        "file_bytes": sum(f.stat().st_size for f in (config.folder / "best").iterdir()),
        "diverged": history.diverged,
    }


def finish_logging(logger: Any | None, result: RunResult) -> str | None:
    """Write the dashboard's summary and end it; its run id."""
    if not logger:
        return None
    try:
        experiment = logger.experiment
        best = {f"best/{k}": v for k, v in result.best.items()}
        figures = {f"test/{k}": v for k, v in (result.test or {}).items() if isinstance(v, (int, float))}
        experiment.summary.update(best | figures | {f"parameters/{k}": v for k, v in result.parameters.items()})
        identity = experiment.id
        experiment.finish()
        return identity
    except Exception as error:
        warnings.warn(f"Weights & Biases could not be finished: {error}", stacklevel=2)
        return None


def quieten() -> None:
    """Silence what tells a person nothing: the libraries' advice about workers, devices and loggers."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (".*does not have many workers.*", ".*GPU available but not used.*", ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", pattern)
    warnings.filterwarnings("ignore", ".*number of training batches.*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated.*|.*all_gather is deprecated.*")
    warnings.filterwarnings("ignore", ".*treespec.*|.*LeafSpec.*|.*isinstance.treespec.*")
    assert "weights_only" in inspect.signature(Trainer.fit).parameters, "needs lightning >= 2.6"
