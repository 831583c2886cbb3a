"""Wrappers that other loops put around a model, what they do to the names of its parameters, and to the parameters."""

from __future__ import annotations

from torch import Tensor, nn

from variants.errors import VariantError

_SEGMENTS = {
    "_orig_mod": "torch.compile",
    "_forward_module": "Lightning Fabric",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "a checkpoint wrapper",
    "module": "DataParallel or DistributedDataParallel",
}
"""Attribute under which a wrapper keeps the model -> who wraps so."""
_BY_MODULE = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")
"""Classes that keep it under ``module``, a name that a model may have for something of its own."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of whatever wrappers there are around it.

    Raises:
        VariantError: a wrapper has taken down which parameters train: an adapter that comes later would not be
            averaged over the processes, without a word.
    """
    while (inner := _inside(model)) is not None:
        if type(model).__name__ in _BY_MODULE[1:]:
            raise VariantError(
                f"attach the adapter before {type(model).__name__} wraps the model: it synchronises only the "
                f"parameters that it was made with; attach to its .module, then wrap anew"
            )
        model = inner
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    by_module = any(cls.__name__ in _BY_MODULE for cls in type(model).__mro__)
    for name in _SEGMENTS:
        inner = model._modules.get(name)
        if inner is not None and (name != "module" or by_module):
            return inner
    return None


def plain(name: str) -> str:
    """A parameter's name without the segments of wrappers around parts of the model (a compiled block)."""
    return ".".join(part for part in name.split(".") if part == "module" or part not in _SEGMENTS)


def wrapper_of(name: str) -> str:
    """Who put the first segment before a name of a file, such as ``module.``; "" where it is none of theirs."""
    return _SEGMENTS.get(name.partition(".")[0], "")


def in_shards(parameter: Tensor) -> bool:
    """Whether a parameter is spread over several devices now, as ``fully_shard`` leaves it between passes."""
    return hasattr(parameter, "device_mesh")


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are in shards: every process must then go through the same passes."""
    return any(map(in_shards, model.parameters()))
