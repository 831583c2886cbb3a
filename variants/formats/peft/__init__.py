"""PEFT's adapter folders (``adapter_config.json``, ``adapter_model.safetensors``)."""

from variants.formats.peft.as_lora import AsLoRA
from variants.formats.peft.common import CONFIG, TENSORS
from variants.formats.peft.methods import kind
from variants.formats.peft.reading import load, read, split
from variants.formats.peft.tasks import TASKS
from variants.formats.peft.writing import NEAREST, prepare, save

__all__ = ["CONFIG", "NEAREST", "TASKS", "TENSORS", "AsLoRA", "kind", "load", "prepare", "read", "save", "split"]
