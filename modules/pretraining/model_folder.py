"""A pretrained model as a folder in transformers' form, and the device that it was trained on."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save
from torch import Tensor

from variants.atomic import write_atomic


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Inside, if ``on``, PyTorch's operations give the same bits from the same input every time, on a GPU as on a CPU.

    Raises:
        RuntimeError: at an operation of which PyTorch has no such form.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(on or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def machine(device: torch.device) -> dict[str, str]:
    """Device and versions, for the record of a training."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def write_model_folder(
    folder: Path, config: Any, tokenizer: Any, tensors: dict[str, Tensor], record: dict[str, Any]
) -> None:
    """Write configuration, tokenizer, weights (fp16 safetensors) and ``record`` as pretraining.json, atomically."""
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            write_atomic(folder / file.name, file.read_bytes())
    halves = {name: value.to(torch.float16).contiguous() for name, value in tensors.items()}
    write_atomic(folder / "model.safetensors", save(halves, metadata={"format": "pt"}))
    write_record(folder, record)


def write_image_folder(folder: Path, denoiser: Any, scheduler: Any, words: Any, record: dict[str, Any]) -> None:
    """Write a transformer or UNet (fp16) and its scheduler in diffusers' layout, its words, and ``record`` as
    pretraining.json, each file atomically."""
    name = "unet" if type(denoiser).__name__.startswith("UNet") else "transformer"
    with tempfile.TemporaryDirectory() as scratch:
        denoiser.half().save_pretrained(f"{scratch}/{name}")
        scheduler.save_pretrained(f"{scratch}/scheduler")
        for file in sorted(Path(scratch).rglob("*.*")):
            write_atomic(folder / file.relative_to(scratch), file.read_bytes())
    words.save(folder)
    parts = {name: type(denoiser), "scheduler": type(scheduler)}
    named = {name: ["diffusers", part.__name__] for name, part in parts.items()}
    write_atomic(folder / "model_index.json", json.dumps({"_class_name": "WordsPipeline", **named}, indent=1) + "\n")
    write_record(folder, record)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``record`` as pretraining.json, atomically."""
    write_atomic(folder / "pretraining.json", json.dumps(record, indent=1) + "\n")
