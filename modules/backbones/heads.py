"""The task head of a model, and its initial values."""

from __future__ import annotations

import json

from modules.data.cache import digest


def head_modules(model) -> dict[str, torch.nn.Module]:  # noqa: F821
    """The children of a model beside its backbone (`model.base_model`): classifier, pooler of a head, ..."""
    return {name: child for name, child in model.named_children() if child is not model.base_model}


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
