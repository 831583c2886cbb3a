"""What kohya's files hold of one map, by method: LoRA, DoRA, LoHa and LoKr, as LoRA's or DoRA's factors.

LoHa's and LoKr's updates become LoRA of the rank that holds them exactly. Sources of the forms: sd-scripts
(networks/lora.py) and LyCORIS (lycoris/modules/loha.py, lokr.py, locon.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from variants.errors import VariantError
from variants.formats.diffusers.parts import Learnt

_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
KNOWN = frozenset(
    ("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale")
    + (*_LOHA, "hada_t1", "hada_t2")
    + ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
)
"""Names of the tensors that are understood, of those that stand behind a map's name."""


def learnt(where: str, own: Mapping[str, Tensor]) -> Learnt:
    """A map's tensors by their names in the file, as factors of our LoRA or DoRA.

    Args:
        where: the map, for messages.

    Raises:
        VariantError: one is missing, or the form has no counterpart.
    """
    kinds = {name.partition("_")[0] for name in own} & {"lora", "hada", "lokr"}
    if len(kinds) != 1:
        raise VariantError(f"{where} has {', '.join(sorted(own))}, which is no method's")
    kind = kinds.pop()
    if kind == "lora":
        return _lora(where, own)
    if "dora_scale" in own:
        raise VariantError(f"{where} is {kind} with a dora_scale, which has no counterpart")
    return _as_lora(*(_loha(where, own) if kind == "hada" else _lokr(where, own)))


def _alpha(own: Mapping[str, Tensor], r: int) -> float:
    """α; where it is missing or 0 it is the rank."""
    return (float(own["alpha"].item()) if "alpha" in own else 0.0) or float(r)


def _take(where: str, own: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    if missing := [name for name in names if name not in own]:
        raise VariantError(f"{where} lacks {missing[0]}")
    return [own[name] for name in names]


def _lora(where: str, own: Mapping[str, Tensor]) -> Learnt:
    down, up = _take(where, own, "lora_down.weight", "lora_up.weight")
    r = len(down)
    if "lora_mid.weight" in own:  # a kernel between two maps of pixels
        down = torch.einsum("mr...,rc->mc...", own["lora_mid.weight"].float(), down.flatten(1).float())
    if set(up.shape[2:]) - {1} or up.shape[1:2] != (r,):
        raise VariantError(f"{where}.lora_up.weight is {tuple(up.shape)}, no map of {r} values")
    tensors = {"lora_A": down.flatten(1), "lora_B": up.flatten(1)}
    if (scale := own.get("dora_scale")) is not None:
        if scale.numel() != len(up):
            raise VariantError(f"{where}.dora_scale is {tuple(scale.shape)}: scales of inputs have no counterpart")
        tensors["magnitude"] = scale.flatten()
    return Learnt(tensors, _alpha(own, r), tuple(down.shape[1:]) if down.ndim > 2 else ())


def _as_lora(left: Tensor, right: Tensor, scale: float, kernel: tuple[int, ...]) -> Learnt:
    """scale · left · right, as LoRA of a rank that holds it."""
    limit = min(len(left), right.shape[1])
    if left.shape[1] > limit:
        delta = left @ right
        eye = torch.eye(limit, dtype=delta.dtype)
        left, right = (delta, eye) if limit == delta.shape[1] else (eye, delta)
    return Learnt({"lora_A": right, "lora_B": left}, scale * right.shape[0], kernel)


Product = tuple[Tensor, Tensor, float, tuple[int, ...]]
"""Left (out, k), right (k, in), a scale, and the kernel (C, k, k) of a convolution."""


def _loha(where: str, own: Mapping[str, Tensor]) -> Product:
    """(w1_a w1_b) ∘ (w2_a w2_b) · α/r: a product of rank r², of the factors' products row by row, column by column."""
    a1, b1, a2, b2 = (tensor.float() for tensor in _take(where, own, *_LOHA))
    scale = _alpha(own, len(b1)) / len(b1)
    if "hada_t1" in own:  # a kernel between the factors of each
        t1, t2 = (tensor.float() for tensor in _take(where, own, "hada_t1", "hada_t2"))
        delta = _through(t1, a1, b1) * _through(t2, a2, b2)
        return delta.flatten(1), torch.eye(delta[0].numel()), scale, tuple(delta.shape[1:])
    kernel = tuple(b1.shape[1:]) if b1.ndim > 2 else ()
    left = (a1[:, :, None] * a2[:, None, :]).flatten(1)
    right = (b1.flatten(1)[:, None] * b2.flatten(1)[None]).flatten(0, 1)
    return left, right, scale, kernel


def _through(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A kernel (r, r, k, k) between (r, out) and (r, in): (out, in, k, k)."""
    return torch.einsum("ij...,jc,io->oc...", t, b, a)


def _lokr(where: str, own: Mapping[str, Tensor]) -> Product:
    """kron(w1, w2), each of them given or a product of two factors, times α/r where one is."""
    w1, r1 = _side(where, own, "lokr_w1")
    w2, r2 = _side(where, own, "lokr_w2")
    r = r2 or r1
    kernel = (w1.shape[1] * w2.shape[1], *w2.shape[2:]) if w2.ndim > 2 else ()
    delta = torch.kron(w1[(..., *(None for _ in w2.shape[2:]))].contiguous(), w2.contiguous()).flatten(1)
    return delta, torch.eye(delta.shape[1]), _alpha(own, r) / r if r else 1.0, kernel


def _side(where: str, own: Mapping[str, Tensor], name: str) -> tuple[Tensor, int]:
    """A factor of a Kronecker product, and its rank where it is itself a product."""
    if name in own:
        return own[name].float(), 0
    a, b = (tensor.float() for tensor in _take(where, own, f"{name}_a", f"{name}_b"))
    if (t := own.get("lokr_t2")) is not None and name == "lokr_w2":
        return _through(t.float(), a, b), len(b)
    return torch.tensordot(a, b, dims=1), len(b)
