"""The task head of a model, and its initial values."""

from __future__ import annotations

import json
from pathlib import Path

from modules.backbones.model_config import read_config
from modules.data.cache import digest
from variants.errors import UserError


def head_modules(model) -> dict[str, torch.nn.Module]:  # noqa: F821
    """The modules of the head by name: children beside the backbone, and poolers in it that its checkpoint lacks."""
    from variants.sites.architectures import head_parameters

    head, backbone = set(head_parameters(model)), model.base_model
    prefix = next(name for name, module in model.named_modules() if module is backbone)
    found = {name: child for name, child in model.named_children() if child is not backbone}
    found |= {f"{prefix}.{name}": child for name, child in backbone.named_children()}
    own = {name: {f"{name}.{key}" for key, _ in child.named_parameters()} for name, child in found.items()}
    return {name: child for name, child in found.items() if own[name] and own[name] <= head}


def pretrained_parts(folder: Path) -> str:
    """Names of the parts of a folder's model that only its heads use and that pretraining trained; comma list."""
    from variants.sites.architectures import family_of

    try:
        model_type = read_config(folder).get("model_type")
    except UserError:
        return ""  # loading it says what is wrong with the folder
    return ",".join(family_of(str(model_type)).pretrained)


def in_head(model, key: str) -> bool:
    """Whether a parameter that a checkpoint lacks belongs to what heads read: then it is drawn anew, and trains."""
    from variants.sites.architectures import architecture_of

    prefix, family = f"{model.base_model_prefix}.", architecture_of(model)
    parts = {"pooler", *family.poolers, *family.pretrained}
    return not key.startswith(prefix) or key.removeprefix(prefix).partition(".")[0] in parts


def init_head(model, seed: int) -> None:
    """Draws the head anew, as transformers would, from `seed` alone (a checkpoint's own head is not kept)."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(digest(json.dumps([seed, "head"]).encode())[:15], 16))
        for child in head_modules(model).values():
            for tensor in (*child.modules(), *child.parameters(), *child.buffers()):
                tensor._is_hf_initialized = False  # else transformers leaves it as it is
            with torch.no_grad():
                child.apply(model._init_weights)
