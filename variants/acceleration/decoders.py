"""Kernels for what decoders have between their linear maps: RMSNorms by Liger, gated activations, rotary positions.

Used on a GPU, RMSNorms where ``liger-kernel`` is installed (extra ``liger``). No list says which models they fit: each
is tried once on random numbers, and used where it computes what the model's own code computes.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from variants.acceleration.basics.found import found_of
from variants.acceleration.basics.overrides import Override
from variants.acceleration.basics.policy import has_triton
from variants.acceleration.products.postponed import gain_of, postponing
from variants.acceleration.products.sources import remember
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack

ROTARY = "apply_rotary_pos_emb"
"""What transformers calls the function that turns queries and keys by their positions, in each family's file."""
GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""Children of a gated feed-forward layer: down(act(gate x) · up x)."""
NEAR = 0.02
"""Largest difference of two ways to compute in bf16, as a share of the largest value."""


def available(device: torch.device) -> bool:
    """Whether there are such kernels for a device."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def kernels(handle: AdaptedModel | Stack) -> list[Override]:
    """Overrides of what has a kernel, found once for each handle; nobody else's replacements are replaced."""
    model, known = handle.model, found_of(handle)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if not available(device):
        return []
    if "kernels" not in known:
        own_numbers = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with torch.inference_mode(False), torch.no_grad(), own_numbers:
            torch.manual_seed(0)
            known["kernels"] = list(_kernels(model, device))
    return [one for one in known["kernels"] if isinstance(one[0], ModuleType) or "forward" not in vars(one[0])]


def _kernels(model: nn.Module, device: torch.device) -> Iterator[Override]:
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and (values := _norm(module, device)):
            yield module, "forward", _Norm(module, values).forward
        elif all(hasattr(module, name) for name in GATED) and (activation := _gated(module, device)):
            yield module, "forward", _Gated(module, activation).forward
    for name in dict.fromkeys(type(module).__module__ for module in model.modules()):
        code = sys.modules[name]
        if isinstance(code, ModuleType) and hasattr(code, ROTARY) and _turns(getattr(code, ROTARY), device):
            yield code, ROTARY, _Rotary(getattr(code, ROTARY)).turned


# ---- RMSNorm -------------------------------------------------------------------------------------------------------


class _Norm:
    def __init__(self, norm: nn.Module, values: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.norm, self.values = norm, values

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """As the norm's own; large outputs say what they are made of."""
        x, *more = (*args, *kwargs.values())  # called by name: hidden_states=x
        weight = self.norm.weight
        if more or not has_triton(x) or x.dtype != weight.dtype:
            return type(self.norm).forward(self.norm, *args, **kwargs)
        return remember(self.values(x, weight), lambda x: self.values(x, weight), x)


def _norm(norm: nn.Module, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Liger's function of (x, weight) for a norm: its weights may lie around 0 or 1, its products be fp32 or not."""
    try:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    except ImportError:
        return None
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    weight = norm._parameters.get("weight")
    if epsilon is None or weight is None or weight.ndim != 1:
        return None
    for offset, casting in ((0.0, "llama"), (1.0, "gemma"), (0.0, "gemma")):

        def values(x: Tensor, weight: Tensor, offset: float = offset, casting: str = casting) -> Tensor:
            return LigerRMSNormFunction.apply(x, weight, epsilon, offset, casting, False)

        if _same_norm(norm, values, device):
            return values
    return None


def _same_norm(norm: nn.Module, values: Callable, device: torch.device) -> bool:
    stand_in = copy.copy(norm)
    probe = torch.randn_like(norm.weight, dtype=torch.bfloat16)
    stand_in._parameters = {**norm._parameters, "weight": nn.Parameter(probe, requires_grad=False)}
    x = torch.randn(2, 3, len(probe), device=device, dtype=torch.bfloat16)
    return _agree(lambda: type(norm).forward(stand_in, x), lambda: values(x, probe))


# ---- gated activations ---------------------------------------------------------------------------------------------


class _Gated:
    def __init__(self, layer: nn.Module, activation: Callable[..., Tensor]) -> None:
        self.layer, self.activation = layer, activation

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """As the layer's own; what goes into its last map says what it is made of."""
        x, *more = (*args, *kwargs.values())
        if more or not has_triton(x):
            return type(self.layer).forward(self.layer, *args, **kwargs)
        gate, up, gains = self._read(x)
        constant = [None if h is None else h.detach() for h in gains]
        made = self.activation(gate, up, *gains)
        return self.layer.down_proj(remember(made, lambda gate, up: self.activation(gate, up, *constant), gate, up))

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Gate and what it gates, and the gains of both that are left to the activation."""
        maps = self.layer.gate_proj, self.layer.up_proj
        if not any(map(_is_watched, maps)):
            with postponing() as left:
                gate, up = (module(x) for module in maps)
            gains = [gain_of(gate), gain_of(up)]
            if len(left) == sum(h is not None for h in gains):  # nobody has put another tensor in between
                return gate, up, gains
        return *(module(x) for module in maps), [None, None]


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody else than an adapter may look at what a map puts out."""
    return len(module._forward_hooks) > ("adapter" in module._modules) or bool(module._backward_hooks)


def _gated(layer: nn.Module, device: torch.device) -> Callable[..., Tensor] | None:
    """The function of (gate, up) and their gains for the activation of a layer that has nothing else, such as dropout;
    not Liger's, which knows no gains (`programs/gated.py`)."""
    if not layer._modules.keys() <= set(GATED):
        return None
    from variants.acceleration.programs.gated import gelu_gated, silu_gated

    return next((f for f in (silu_gated, gelu_gated) if _same_gated(layer, f, device)), None)


def _same_gated(layer: nn.Module, function: Callable[..., Tensor], device: torch.device) -> bool:
    stand_in = copy.copy(layer)
    maps = {name: nn.Linear(32, 32, device=device, dtype=torch.bfloat16) for name in GATED[:3]}
    stand_in._modules, stand_in.training = {**layer._modules, **maps}, True
    x = torch.randn(2, 3, 32, device=device, dtype=torch.bfloat16)

    def ours() -> Tensor:
        return maps["down_proj"](function(maps["gate_proj"](x), maps["up_proj"](x)))

    return _agree(lambda: type(layer).forward(stand_in, x), ours)


# ---- rotary positions ----------------------------------------------------------------------------------------------


class _Rotary:
    def __init__(self, own: Callable) -> None:
        self.own = own

    def turned(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> tuple:
        """As the family's own."""
        alone = kwargs.get("unsqueeze_dim", 1) == 1 and kwargs.keys() <= {"unsqueeze_dim"} and not args
        usual = alone and cos.ndim == 3 and cos.shape[-1] == q.shape[-1] and cos.dtype == q.dtype == k.dtype
        if not usual or not has_triton(q):
            return self.own(q, k, cos, sin, *args, **kwargs)
        from variants.acceleration.programs.rotary import turned

        return turned(q, k, cos, sin)


def _turns(own: Callable, device: torch.device) -> bool:
    from variants.acceleration.programs.rotary import turned

    q, k = (torch.randn(1, heads, 6, 16, device=device, dtype=torch.bfloat16) for heads in (4, 2))
    angles = torch.randn(1, 6, 8, device=device).repeat(1, 1, 2)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()

    def together(function: Callable) -> Tensor:
        return torch.cat([x.flatten() for x in function(q, k, cos, sin)])

    return _agree(lambda: together(own), lambda: together(turned))


def _agree(theirs: Callable[[], Tensor], ours: Callable[[], Tensor]) -> bool:
    """Whether two ways to compute give the same up to rounding; one that fails is another."""
    try:
        expected, found = theirs().float(), ours().float()
    except Exception:
        return False
    same = expected.shape == found.shape
    return same and bool((expected - found).abs().max() <= NEAR * expected.abs().max())
