"""PEFT's adapter folders (``adapter_config.json``, ``adapter_model.safetensors``): LoRA, DoRA, VeRA and AdaLoRA."""

from variants.formats.peft.common import CONFIG, TENSORS, kind
from variants.formats.peft.reading import load, read, split
from variants.formats.peft.tasks import TASKS
from variants.formats.peft.writing import save

__all__ = ["CONFIG", "TASKS", "TENSORS", "kind", "load", "read", "save", "split"]
