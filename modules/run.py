"""``run(config) -> RunResult``: trains and scores one (benchmark, task, backbone, variant, seed)."""

from __future__ import annotations

import contextlib
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

from modules.benchmark import benchmark
from modules.callbacks import EpochSeeds, History, Progress
from modules.config import NEUTRAL, RunConfig
from modules.data import PaddedDataModule
from modules.errors import UserError
from modules.lit import FineTuner
from modules.precision import lower_frozen
from modules.results import ResultStore, RunResult, environment
from modules.tracking import make_logger
from variants.adapted import Adapted, attach
from variants.files import read_adapter
from variants.registry import resolve

CHECKPOINT = "last.ckpt"


def run(config: RunConfig, live: bool | None = None) -> RunResult | None:
    """Train, score and store one run; goes on from its last checkpoint if there is one.

    Args:
        live: show a moving progress bar; by default where standard error is a terminal.

    Returns:
        The result as it was written, or None in a process that is not the first of several.
    """
    quieten()
    seed_everything(config.seed, verbose=False)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it compiles a kernel for every shape that it meets
    reset_peak_memory()
    prepared = benchmark(config.benchmark).prepare(config)
    data, objective = prepared.data, prepared.objective
    variant = resolve(config.variant)(**config.options)
    precision = config.training.get("precision", "32-true")
    if precision == "bf16-mixed" and not list(variant.trainable(prepared.model)):
        lower_frozen(prepared.model, torch.bfloat16)  # adapters look after themselves: no autocast is needed
        precision = "32-true"
    graphs = uses_graphs(config, precision)
    data.fill = graphs  # every batch of a length has one shape
    adapted = attach(prepared.model, variant, config.seed)
    if config.init_from:
        start_from(adapted, Path(config.results_dir) / "runs" / config.init_from["id"] / "best")
    counts = adapted.count()
    t = config.training
    module = FineTuner(
        adapted,
        objective,
        lr=t["lr"],
        head_lr=t.get("head_lr"),
        weight_decay=t.get("weight_decay", 0.0),
        warmup_ratio=t.get("warmup_ratio", 0.0),
        warmup_steps=t.get("warmup_steps"),
        adam_eps=t.get("adam_eps", 1e-8),
        graphs=graphs,
    )
    adapted.init_from_data(_few_batches(data))
    prepared.model.train()  # from_pretrained leaves it in eval mode, and Lightning keeps what it finds
    history = History(objective.metric, config.folder, {"task": config.task, "run": config.id, "spec": config.variant})
    trainer = _trainer(config, history, live, precision)
    checkpoint = config.folder / CHECKPOINT
    if objective.scores_frozen and not adapted.trained():
        trainer.validate(module, datamodule=data, verbose=False)
    else:
        trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    variant_metrics = adapted.metrics()
    test = objective.test(module, adapted, config.folder)
    if not trainer.is_global_zero:
        return None
    result = RunResult(
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
        metric=objective.metric,
        epochs=history.epochs,
        best=history.best,
        last=history.last,
        test=test,
        parameters=counts,
        cost=_cost(history, data, config),
        variant_metrics=variant_metrics,
        environment=environment(str(trainer.strategy.root_device), trainer.world_size)
        | {"runs_at_once": int(os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1"))},
        wandb_id=_finish_logging(trainer, history, counts, test),
    )
    ResultStore(config.results_dir).write(result)
    checkpoint.unlink(missing_ok=True)
    return result


def _few_batches(data: PaddedDataModule, count: int = 8):
    """The first training batches, read only by a variant that asks for them (``init_from_data``)."""
    for index, batch in enumerate(data.train_dataloader()):
        if index == count:
            return
        yield batch


def uses_graphs(config: RunConfig, precision: str) -> bool:
    """Whether training steps are replayed as CUDA graphs: on one GPU, not under fp16, whose scale may skip a step."""
    trainer = config.trainer
    alone = trainer.get("devices", 1) in (1, "1") and trainer.get("num_nodes", 1) == 1 and "strategy" not in trainer
    on_gpu = torch.cuda.is_available() and trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    return config.compile != "off" and alone and on_gpu and precision != "16-mixed"


def _trainer(config: RunConfig, history: History, live: bool | None, precision: str) -> Trainer:
    logger = make_logger(config)
    checkpoints = ModelCheckpoint(
        dirpath=config.folder,
        filename=Path(CHECKPOINT).stem,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks = [EpochSeeds(config.seed), history, Progress(config.title, history, live), checkpoints]
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


def _finish_logging(
    trainer: Trainer, history: History, counts: dict[str, int], test: dict[str, Any] | None
) -> str | None:
    """Write the dashboard's summary and end it; its run id."""
    if not trainer.logger:
        return None
    try:
        experiment = trainer.logger.experiment
        best = {f"best/{k}": v for k, v in history.best.items()}
        figures = {f"test/{k}": v for k, v in (test or {}).items() if isinstance(v, (int, float))}
        experiment.summary.update(best | figures | {f"parameters/{k}": v for k, v in counts.items()})
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
