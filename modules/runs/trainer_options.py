"""Which options of `lightning.Trainer` a command may give (`--trainer.NAME VALUE`), and with which values."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modules.runs.ranks import launched, local_ranks, named_devices, on_cpu
from variants.errors import UserError

OWNED = {
    "max_epochs": "use --epochs",
    "max_steps": "use --epochs",
    "max_time": "the same command goes on where a run was stopped",
    "gradient_clip_val": "use --gradient_clip_val",
    "logger": "use --logger",
    "default_root_dir": "use --results_dir",
    "fast_dev_run": "use --epochs 1, and --trainer.limit_train_batches",
    "overfit_batches": "use --trainer.limit_train_batches",
} | dict.fromkeys(
    (
        "callbacks", "enable_checkpointing", "use_distributed_sampler", "enable_progress_bar",
        "check_val_every_n_epoch", "val_check_interval", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs",
        "barebones", "plugins",
    ),
    "every run needs it as it is",
)  # fmt: skip
"""Trainer options that the framework sets itself, and what to do instead."""


TRUNCATING = ("limit_train_batches", "limit_val_batches", "overfit_batches", "fast_dev_run")
"""Trainer options of which each leaves rows out; the last two stand in older files alone."""


def truncates(trainer: Mapping[str, Any]) -> bool:
    """Whether Trainer options leave rows out: of the limits 1.0 is all of the batches, 1 is one of them."""
    given = [trainer[name] for name in TRUNCATING if name in trainer]
    return any(bool(value) and not (isinstance(value, float) and value == 1.0) for value in given)


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _share(value: Any) -> bool:
    """A share of the batches, or a number of them."""
    return _whole(1)(value) or isinstance(value, float) and 0 < value <= 1


def _devices(value: Any) -> bool:
    number = value in (-1, "-1") or _whole(1)(value) or isinstance(value, str) and value.isdigit() and int(value) > 0
    listed = value.replace(" ", "").split(",") if isinstance(value, str) else value
    return number or value == "auto" or isinstance(listed, list) and bool(listed) and value != "0" and _numbers(listed)


def _numbers(values: list) -> bool:
    return all(str(value).isdecimal() for value in values)


STRATEGIES = ("auto", "ddp", "fsdp2")
"""Values of --trainer.strategy: the whole model on each device (auto, ddp), or the frozen base in shards (fsdp2)."""

REFUSED = {
    "deepspeed": "it would shard what trains and write checkpoints of its own",
    "fsdp": "it flattens frozen weights and trained ones into one, and writes checkpoints of its own",
    "model_parallel": "it writes checkpoints of its own",
    "ddp_find": "every tensor that trains gets a gradient here, or the run says which does not",
    "ddp_": "processes that are spawned or forked do not give their results back",
}
"""By the beginning of a strategy's name: why it is refused."""


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "devices": (_devices, "a number from 1, a list of them, or auto"),
    "num_nodes": (_whole(1), "a whole number from 1"),
    "accumulate_grad_batches": (_whole(1), "a whole number from 1"),
    "limit_train_batches": (_share, "a share above 0, such as 0.5, or a whole number from 1"),
    "limit_val_batches": (_share, "a share above 0, such as 0.5, or a whole number from 1"),
    "log_every_n_steps": (_whole(1), "a whole number from 1"),
}
"""By option: whether a value can work, and those that can, in words. What Lightning refuses itself is not repeated."""


def check_trainer(options: Mapping[str, Any], here: bool = True) -> None:
    """Refuse, in one line, a Trainer option that does not exist, that is not the command's, or that cannot work.

    Args:
        here: whether the runs are carried out on this machine, so that what it lacks counts.

    Raises:
        UserError: naming option and value.
    """
    if not options:
        return
    known = option_names()
    for name, value in options.items():
        if name in OWNED:
            raise UserError(f"--trainer.{name} is set by this project; {OWNED[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else "lightning's documentation lists them"
            raise UserError(f"--trainer.{name} is no option of lightning.Trainer; {hint}")
        fits, words = VALUES.get(name, (None, ""))
        if fits and not fits(value):
            raise UserError(f"--trainer.{name} must be {words}, not {value!r}")
    _check_strategy(options.get("strategy", "auto"))
    _check_accelerator(options.get("accelerator", "auto"), here)
    if not here:
        return
    _check_devices(options)
    if options.get("num_nodes", 1) > 1 and not launched() and "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"--trainer.num_nodes {options['num_nodes']} alone would wait for the other machines for ever: start the "
            "command on each by torchrun or srun (docs/clusters.md)"
        )


@functools.lru_cache
def option_names() -> frozenset[str]:
    """The Trainer's options, as its source names them: importing Lightning takes seconds, and a plan needs no more."""
    package = find_spec("lightning")
    if package and package.origin:
        with contextlib.suppress(OSError, SyntaxError, StopIteration):
            source = (Path(package.origin).parent / "pytorch" / "trainer" / "trainer.py").read_text("utf-8")
            trainer = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "Trainer")
            made = next(node.args for node in trainer.body if getattr(node, "name", "") == "__init__")
            return frozenset(each.arg for each in (*made.args, *made.kwonlyargs)) - {"self"}
    from lightning.pytorch import Trainer  # an installation without sources

    return frozenset(inspect.signature(Trainer.__init__).parameters) - {"self"}


def _check_devices(options: Mapping[str, Any]) -> None:
    """Raise UserError where the run is to use more GPUs than are here; a launcher may show each rank its own alone."""
    if launched() or on_cpu(options):
        return
    import torch

    here = torch.accelerator.device_count()
    highest = max(named_devices(options) or [local_ranks(options) - 1])
    if highest >= here:
        raise UserError(f"--trainer.devices {options['devices']}: this machine has {here} of them, numbered from 0")


def _check_strategy(name: Any) -> None:
    """Raise UserError where a strategy could not keep what the project promises: its files, resuming, equal numbers."""
    if name not in STRATEGIES:
        why = next((f": {reason}" for start, reason in REFUSED.items() if str(name).startswith(start)), "")
        raise UserError(
            f"--trainer.strategy {name} is not supported{why}; leave it out for the whole model on each device (ddp), "
            "or name fsdp2 for a model that is larger than a GPU, its frozen weights in shards"
        )


def _check_accelerator(name: Any, here: bool) -> None:
    """Raise UserError where there is no such accelerator; ``here``: on this machine."""
    if name in ("auto", "cpu"):  # which are on every machine
        return
    from lightning.pytorch.accelerators import AcceleratorRegistry  # takes seconds

    names = sorted(AcceleratorRegistry.available_accelerators())
    if name != "gpu" and name not in names:
        raise UserError(f"--trainer.accelerator must be one of auto, gpu, {', '.join(names)}, not {name!r}")
    found = not here
    for each in ("cuda", "mps") if name == "gpu" else (name,):
        with contextlib.suppress(ImportError):  # of what a machine without such an accelerator lacks
            found = found or AcceleratorRegistry.get(each).is_available()
    if not found:
        raise UserError(f"--trainer.accelerator {name}: there is none on this machine; leave it out, or name cpu")
