"""Methods whose tensors PEFT has under other names and in other layouts: one entry of a table for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.errors import VariantError
from variants.formats.boundary import build
from variants.formats.peft.common import CONFIG
from variants.layer import AdapterLayer
from variants.registry import resolve
from variants.sites.site import Site
from variants.variant import BaseVariant

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """How PEFT keeps a method.

    Attributes:
        names: our tensor -> theirs, the last part of its name.
        options: our option -> theirs; of one that counts otherwise, theirs and how many of theirs one of ours is.
        constants: options of PEFT's that have one value here. One that stands in a file with a value that means
            something else is refused.
        silent: options of PEFT's that shape training alone.
        written: a layer's tensors by their names, where more than a name differs.
        read: the inverse, given the file's configuration too.
        config: further options of theirs, from the variant and its first layer.
        chosen: further options of ours, from their configuration and the tensors of a layer by our names.
        without: options that PEFT's other configurations have and this one lacks; without ``fan_in_fan_out`` it has no
            transposed maps, such as GPT-2's.
        ignored: last names of tensors that say nothing new.
        shared: names of tensors that all layers share, as the file has them.
        write_shared: these, from our layers.
        read_shared: what our layers have of these, by the paths of the sites that hold them first.
    """

    names: Mapping[str, str]
    options: Mapping[str, str | tuple[str, int]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    written: Callable[[AdapterLayer], Tensors] | None = None
    read: Callable[[Tensors, Mapping[str, Any]], Tensors] | None = None
    config: Callable[[BaseVariant, AdapterLayer], dict[str, Any]] = lambda variant, layer: {}
    chosen: Callable[[Mapping[str, Any], Tensors], dict[str, Any]] = lambda config, tensors: {}
    without: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    write_shared: Callable[[Sequence[AdapterLayer]], Tensors] = lambda layers: {}
    read_shared: Callable[[Tensors, Sequence[Site]], dict[str, Tensors]] = lambda tensors, sites: {}

    def tensors(self, layer: AdapterLayer) -> Tensors:
        """A layer's tensors by PEFT's names."""
        if self.written is not None:
            return self.written(layer)
        found = dict(layer.named_parameters())
        return {theirs: found[own] for own, theirs in self.names.items()}

    def ours(self, tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
        """The inverse of :meth:`tensors`."""
        if self.read is not None:
            return self.read(tensors, config)
        return {own: tensors[theirs] for own, theirs in self.names.items()}

    def known(self) -> set[str]:
        """Options of PEFT's that are read here or mean nothing for outputs."""
        theirs = (each if isinstance(each, str) else each[0] for each in self.options.values())
        return {*theirs, *self.constants, *self.silent}


# ---- layouts -----------------------------------------------------------------------------------------------


def _ia3(layer: AdapterLayer) -> Tensors:
    return {"ia3_l": layer.l[None] if layer.on_input else layer.l[:, None]}


def _upper(matrices: Tensor) -> Tensor:
    """What stands above the diagonals of (..., b, b)."""
    row, column = torch.triu_indices(*matrices.shape[-2:], 1).unbind()
    return matrices[..., row, column]


def _oft(layer: AdapterLayer) -> Tensors:
    """PEFT's exact transform has the other sign than its polynomial."""
    return {"oft_R.weight": layer.Q.upper if layer.config.terms else -layer.Q.upper}


def _read_oft(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    upper = tensors["oft_R.weight"]
    return {"Q.upper": upper if config.get("use_cayley_neumann", True) else -upper}


def _oft_config(variant: BaseVariant, layer: AdapterLayer) -> dict[str, Any]:
    """The version says that the polynomial is the one that PEFT has since."""
    terms = {"use_cayley_neumann": bool(variant.terms), "num_cayley_neumann_terms": variant.terms or 5}
    return terms | {"peft_version": "0.18.0"}


def _oft_terms(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    if not config.get("use_cayley_neumann", True):
        return {"terms": 0}
    if not config.get("peft_version"):
        raise VariantError("PEFT before 0.18 had another polynomial in OFT, and the file says no version")
    return {"terms": max(4, config.get("num_cayley_neumann_terms") or 5)}  # PEFT's 3 are 4


def _boft(layer: AdapterLayer) -> Tensors:
    return {"boft_R": -layer.Q().to(layer.s.dtype), "boft_s": layer.s[:, None]}


def _read_boft(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    R = tensors["boft_R"]
    return {"Q.upper": -_upper(R - R.mT) / 2, "s": tensors["boft_s"].flatten()}


def _lokr(layer: AdapterLayer) -> Tensors:
    """PEFT has one matrix in place of two where these would hardly be smaller."""
    if layer.config.r < max(len(layer.B), layer.A.shape[1]) / 2:
        return {"lokr_w1": layer.C, "lokr_w2_a": layer.B, "lokr_w2_b": layer.A}
    return {"lokr_w1": layer.C, "lokr_w2": layer.B @ layer.A}


def _read_lokr(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    C = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if "lokr_w2" not in tensors:
        return {"C": C, "B": tensors["lokr_w2_a"], "A": tensors["lokr_w2_b"]}
    w2 = tensors["lokr_w2"]  # B times A for any r, one of them with an identity in it
    rank = max(config["r"], min(w2.shape))
    eye = torch.eye(rank).to(w2)
    m, n = w2.shape
    if m <= n:
        return {"C": C, "B": eye[:m], "A": torch.cat([w2, w2.new_zeros(rank - m, n)])}
    return {"C": C, "B": torch.cat([w2, w2.new_zeros(m, rank - n)], 1), "A": eye[:, :n]}


def _lokr_rank(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Where an identity stands in for a factor it may take a higher rank, of the same scaling."""
    rank = len(tensors["A"])
    return {"r": rank, "alpha": config["alpha"] * rank / config["r"]}


def _delora(layer: AdapterLayer) -> Tensors:
    return {"delora_A": layer.A, "delora_B": layer.B, "delora_lambda": layer.strength, "delora_w_norm": layer.norm}


def _randlora(layer: AdapterLayer) -> Tensors:
    """PEFT writes the random matrices with every layer."""
    names = {"randlora_lambda": layer.Lambda, "randlora_gamma": layer.Gamma}
    return names | {name.partition(".")[2]: tensor for name, tensor in _randlora_bases([layer]).items()}


def _randlora_bases(layers: Sequence[AdapterLayer]) -> Tensors:
    first = layers[0].bases
    if any(layer.bases.B.shape != first.B.shape or layer.bases.A.shape != first.A.shape for layer in layers):
        raise VariantError("PEFT's RandLoRA has one pair of bases for all layers, and these maps are of several shapes")
    long, r, n = first.B.shape
    return {"base_model.randlora_A": first.A[:, None], "base_model.randlora_B": first.B.reshape(long, n, r)}


def _read_randlora_bases(tensors: Tensors, sites: Sequence[Site]) -> dict[str, Tensors]:
    if any(name not in tensors for name in FORMS["randlora"].shared):
        raise VariantError("the file lacks its random matrices: train with save_projection=True in PEFT")
    A, B = (tensors[name] for name in FORMS["randlora"].shared)
    found: dict[str, Tensors] = {}
    seen = set()
    for site in sites:
        short, long = sides = tuple(sorted((site.in_features, site.out_features)))
        if sides not in seen:
            seen.add(sides)
            r, n = len(A), -(-short // len(A))
            found[site.path] = {"bases.A": A[:, 0, :short], "bases.B": B[:long, :n].reshape(long, r, n)}
    return found


def _vector_bank(layers: Sequence[AdapterLayer]) -> Tensors:
    return {"base_model.vblora_vector_bank": layers[0].bank.vectors}


def _read_vector_bank(tensors: Tensors, sites: Sequence[Site]) -> dict[str, Tensors]:
    return {sites[0].path: {"bank.vectors": tensors["base_model.vblora_vector_bank"]}}


# ---- the table ---------------------------------------------------------------------------------------------

_FAN = "fan_in_fan_out"
_DROPPED = ("init_weights", "rank_dropout", "module_dropout", "rank_dropout_scale")
FORMS: dict[str, Form] = {
    "ia3": Form({"l": "ia3_l"}, silent=("init_ia3_weights", "feedforward_modules"), written=_ia3,
                without=("bias", "layers_pattern", "layers_to_transform"),
                read=lambda tensors, config: {"l": tensors["ia3_l"].flatten()}),
    "loha": Form({"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"},
                 {"r": "r", "alpha": "alpha"}, silent=(*_DROPPED, "use_effective_conv2d"), without=(_FAN, "bias")),
    "lokr": Form({name: f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
                 {"r": "r", "alpha": "alpha", "factor": "decompose_factor"},
                 silent=(*_DROPPED, "use_effective_conv2d", "decompose_both"), written=_lokr, read=_read_lokr,
                 chosen=_lokr_rank, without=(_FAN, "bias")),
    "oft": Form({"Q.upper": "oft_R.weight"}, {"block": "oft_block_size"},
                {"r": 0, "coft": False, "block_share": False},
                silent=(*_DROPPED, "eps", "use_cayley_neumann", "num_cayley_neumann_terms"), written=_oft,
                read=_read_oft, chosen=_oft_terms,
                config=_oft_config),
    "boft": Form({"Q.upper": "boft_R", "s": "boft_s"},
                 {"block": "boft_block_size", "factors": "boft_n_butterfly_factor"}, {"boft_block_num": 0},
                 silent=("init_weights", "boft_dropout"), written=_boft, read=_read_boft),
    "hra": Form({"u": "hra_u"}, {"pairs": ("r", 2)}, {"apply_GS": False}, silent=("init_weights",),
                without=(_FAN,)),
    "fourierft": Form({"c": "fourierft_spectrum"},
                      {"n": "n_frequency", "alpha": "scaling", "entry_seed": "random_loc_seed"},
                      {"n_frequency_pattern": {}}, silent=("init_weights",)),
    "vblora": Form({"logits_A": "vblora_logits_A", "logits_B": "vblora_logits_B"},
                   {"r": "r", "vectors": "num_vectors", "k": "topk", "dropout": "vblora_dropout"},
                   {"save_only_topk_weights": False},
                   silent=("init_logits_std", "init_vector_bank_bound", "vector_length"),
                   config=lambda variant, layer: {"vector_length": layer.bank.vectors.shape[1]},
                   chosen=lambda config, tensors: {"length": config["vector_length"]},
                   shared=("base_model.vblora_vector_bank",), write_shared=_vector_bank,
                   read_shared=_read_vector_bank),
    "randlora": Form({"Lambda": "randlora_lambda", "Gamma": "randlora_gamma"},
                     {"r": "r", "alpha": "randlora_alpha", "dropout": "randlora_dropout"},
                     {"save_projection": True}, silent=("init_weights", "projection_prng_key", "sparse", "very_sparse"),
                     chosen=lambda config, tensors: {"save_projection": True},
                     written=_randlora, ignored=("randlora_A", "randlora_B"),
                     shared=("base_model.randlora_A", "base_model.randlora_B"), write_shared=_randlora_bases,
                     read_shared=_read_randlora_bases),
    "delora": Form({"A": "delora_A", "B": "delora_B", "strength": "delora_lambda"},
                   {"r": "r", "strength": "delora_lambda"}, {"lambda_pattern": {}}, silent=_DROPPED, written=_delora,
                   ignored=("delora_w_norm",), without=(_FAN,)),
    "miss": Form({"D": "miss_block"}, {"r": "r", "dropout": "miss_dropout"}, {"mini_r": 1}, without=(_FAN,)),
}  # fmt: skip
"""Each by our name, which is PEFT's in lower case."""


def prepared(name: str, adapted: AdaptedModel) -> tuple[dict[str, Any], dict[str, Tensors], Tensors]:
    """Configuration, tensors by module path and shared tensors of an adapter that one of the forms holds.

    Raises:
        VariantError: it sits on slices, or its layers differ in options of which PEFT has one for all.
    """
    form, variant, layers = FORMS[name], adapted.variant, list(adapted.layers)
    if sliced := [layer.site.module_path for layer in layers if not layer.site.is_whole]:
        raise VariantError(f"PEFT cannot express {name} on slices of {sliced[0]}: only LoRA can become one whole map")
    for layer in layers:
        if odd := [o for o in form.options if getattr(layer.config, o) != getattr(variant, o)]:
            raise VariantError(f"PEFT's {name} has one {odd[0]} for all layers, and {layer.site.path} has another")
    if _FAN in form.without and (odd := [layer.site.module_path for layer in layers if layer.site.is_transposed]):
        raise VariantError(f"PEFT has no {name} for transposed maps such as {odd[0]}")
    config = {"peft_type": name.upper(), **form.constants}
    for own, theirs in form.options.items():
        key, factor = (theirs, 1) if isinstance(theirs, str) else theirs
        config[key] = getattr(variant, own) * factor
    config |= form.config(variant, layers[0])
    if name == "ia3":
        config["feedforward_modules"] = [layer.site.module_path for layer in layers if layer.on_input]
    return config, {layer.site.module_path: form.tensors(layer) for layer in layers}, form.write_shared(layers)


def described(
    folder: Path, name: str, config: Mapping[str, Any], target: str, layers: Mapping[str, Tensors]
) -> BaseVariant:
    """The variant that a file describes; ``layers`` by our names.

    Raises:
        VariantError: an option of PEFT's has another value than the one that there is here.
    """
    form, options = FORMS[name], {"target": target}
    for own, theirs in form.options.items():
        key, factor = (theirs, 1) if isinstance(theirs, str) else theirs
        if config.get(key) is not None:
            value = config[key] // factor if factor > 1 else config[key]
            options[own] = value
    for key, value in form.constants.items():
        if config.get(key, value) not in (value, None):
            raise VariantError(f"{folder / CONFIG}: PEFT's option {key}={config[key]} has no counterpart here")
    each = {path: form.chosen(config, tensors) for path, tensors in layers.items()}
    first = next(iter(each.values()))
    per_layer = {path: own for path, own in each.items() if own != first}
    more = {"per_layer": per_layer} if per_layer else {}
    if name == "ia3":
        more["inputs"] = ",".join(config.get("feedforward_modules") or [])
    return build(folder, resolve(name), options | first | more, [t for own in layers.values() for t in own.values()])
