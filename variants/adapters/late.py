"""Base weights that come behind attaching: loaded, cast, or given memory only then. A fresh adapter follows them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer
from variants.sites.site import Site

CLOSE = 1e-5
"""Values computed again are other values where they differ by more than this: a GPU sums in another order."""


@contextmanager
def reading(site: Site) -> Iterator[list[bool]]:
    """``with`` this, the list that it gives is filled when somebody reads the weight of ``site``."""
    found: list[bool] = []

    def weight() -> Tensor:
        found.append(True)
        return type(site).weight(site)

    site.weight = weight
    try:
        yield found
    finally:
        del site.weight


@dataclass
class _Start:
    """A layer that has learnt nothing yet.

    Attributes:
        weight: which base weight its initial values were computed from (:func:`_written`).
        values: a digest of its parameters; None where they have had no memory yet.
        versions: how often each of these, by its id, had been written to.
    """

    weight: tuple
    values: bytes | None
    versions: dict[int, int]


@dataclass
class Late:
    """What an adapter keeps to follow late weights, until it has learnt something.

    Attributes:
        rebuild: makes the layers anew, from the same seed; each, and whether it has read the base weight.
        layers: the adapter's, by site path.
        starts: site path -> how the layer began, of layers that depend on the base weight or have no memory yet.
        emptied: tensors of layers whose memory came without values (``to_empty``).
    """

    rebuild: Callable[[], Iterator[tuple[AdapterLayer, bool]]]
    layers: dict[str, AdapterLayer]
    starts: dict[str, _Start] = field(default_factory=dict)
    emptied: list[Tensor] = field(default_factory=list)

    def note(self, path: str, layer: AdapterLayer, derived: bool) -> None:
        """A new layer, which has (``derived``) or has not read the base weight."""
        if any(tensor.is_meta for _, _, tensor in _tensors(layer)):
            self.starts[path] = _Start((), None, {})
        elif derived:
            self.starts[path] = _Start(_written(layer.site), _digest(layer), _versions(layer))

    def follow(self, asked: Iterable[str] | None = None) -> None:
        """Give all layers the initial values that belong to the base as it is now, unless they have learnt.

        Args:
            asked: paths of the layers that are looked at; all by default.
        """
        if not any(map(self._is_behind, list(self.starts) if asked is None else asked)):
            return
        behind = set(filter(self._is_behind, list(self.starts)))
        for fresh, derived in self.rebuild():
            path = fresh.site.path
            if path not in behind:
                continue
            layer, start = self.layers[path], self.starts.pop(path)
            self._give(layer, fresh, everything=start.values is not None)
            if derived:
                self.note(path, layer, derived)
        self.emptied.clear()

    def _is_behind(self, path: str) -> bool:
        start, layer = self.starts.get(path), self.layers[path]
        if start is None or layer.site.device.type == "meta":
            return False
        if start.values is None:
            return True
        now = _versions(layer)  # of a copy, other parameters
        if all(version <= start.versions.get(key, version) for key, version in now.items()):
            if start.weight == _written(layer.site):
                return False
            if start.values == _digest(layer):
                return True
        del self.starts[path]  # it has learnt, or has got its values from elsewhere
        return False

    @torch.no_grad()
    def _give(self, layer: AdapterLayer, fresh: AdapterLayer, everything: bool) -> None:
        """Copy initial values: all, or what has none."""
        values = {(place, name): tensor for place, name, tensor in _tensors(fresh)}
        places = dict(layer.named_modules())
        for place, name, own in _tensors(layer):
            value, module = values[place, name], places[place]
            if own.is_meta and name in module._parameters:
                module._parameters[name] = nn.Parameter(value.detach().clone(), own.requires_grad)
            elif own.is_meta:
                module._buffers[name] = value.clone()
            else:
                empty = any(own is tensor and not tensor._version for tensor in self.emptied)
                if empty or (everything and not torch.allclose(own, value.to(own), rtol=CLOSE, atol=0.0)):
                    own.copy_(value)


def _tensors(layer: nn.Module) -> list[tuple[str, str, Tensor]]:
    """(submodule, name, tensor) of each parameter and buffer of a layer."""
    return [
        (place, name, tensor)
        for place, module in layer.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    ]


def _written(site: Site) -> tuple:
    """Equal for a weight that has not been replaced, cast or written to; to move it is none of these."""
    weight = site.parameter
    return id(weight), None if weight.is_inference() else weight._version, weight.dtype


def _versions(layer: nn.Module) -> dict[int, int]:
    return {id(parameter): parameter._version for parameter in layer.parameters() if not parameter.is_inference()}


def _digest(layer: nn.Module) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for parameter in layer.parameters():
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
