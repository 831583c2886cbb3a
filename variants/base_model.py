"""The base model that an adapter file belongs to: loaded, or replaced by a stand-in of the file's own shapes."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.formats import diffusers, loralib, native, peft
from variants.formats.boundary import refusing
from variants.formats.common import SINGLE_FILES, recognise
from variants.formats.diffusers.parts import components_named
from variants.formats.peft.common import PREFIX
from variants.layer import seeded
from variants.pipeline import is_pipeline, load_component, quiet
from variants.sites.architectures import family_of
from variants.sites.family import Fused

_LABELS = re.compile(r"(?:^|\.)(?:classifier|score|out_proj)\.weight$")
_AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "CAUSAL_LM": "AutoModelForCausalLM",
}
MODELS = "lora_variants.models"


@dataclass
class Outline:
    """What an adapter file tells about its base model.

    Attributes:
        maps: path of each site -> its shape (out, in), or None where its tensors do not tell it.
        head: the model's own parameters in the file.
        class_name: transformers class of the model, or "".
        model_type: transformers' name of the architecture, or "".
        transposed: the maps are GPT-2's Conv1D.
        tied: parameter of the head -> all names of it, where the model has it in several places.
        labels: names of the head's classes, in the order of their numbers.
        problem_type: of the head, in transformers' words, or "".
        base: what the model is loaded by, or "".
        kernels: (C, k, k) of each map that is a convolution.
    """

    maps: dict[str, tuple[int, int] | None]
    head: dict[str, Tensor]
    class_name: str = ""
    model_type: str = ""
    transposed: bool = False
    tied: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    problem_type: str = ""
    base: str = ""
    kernels: dict[str, tuple[int, ...]] = field(default_factory=dict)


def outline(path: str | os.PathLike, component: str | None = None) -> Outline:
    """Read what an adapter of any format tells about its base model.

    Args:
        component: of a file with maps of several models, which of them is meant.
    """
    kind = recognise(path)
    if kind == "kohya":  # its names have lost their dots
        return Outline({"": None}, {})
    if kind == "diffusers":
        return _of_single_file(path, component)
    if kind == "ours":
        config, tensors = native.read_adapter(path)
        base = config.get("base", {})
        head = {key: tensors[key] for key in config.get("head") or [] if key in tensors}
        shapes = _shapes({key: t for key, t in tensors.items() if "::" not in key and key not in head})
        model_type = base.get("model_type") or ""
        return Outline(
            shapes,
            head,
            base.get("class") or "",
            model_type,
            transposed=family_of(model_type).transposed,
            tied=base.get("tied", {}),
            labels=config.get("labels", []),
            problem_type=config.get("problem_type") or "",
            base=config.get("backbone", {}).get("spec") or "",
            kernels={path: tuple(kernel) for path, kernel in base.get("kernels", {}).items()},
        )
    if kind == "peft":
        config, tensors = peft.read(path)
        layers, head = peft.split(tensors, peft.kind(config))
        kernels = {
            key.removeprefix(PREFIX).removesuffix(".lora_A.weight"): tuple(tensor.shape[1:])
            for key, tensor in tensors.items()
            if key.endswith(".lora_A.weight") and tensor.ndim > 2
        }
        auto = _AUTO.get(config.get("task_type") or "", "")
        named = config.get("base_model_name_or_path")
        base = named if isinstance(named, str) else ""
        transposed = bool(config.get("fan_in_fan_out"))
        return Outline(_pairs(layers), head, auto, transposed=transposed, base=base, kernels=kernels)
    layers, head = loralib.read(path)
    return Outline(_pairs(layers), head)


def _named(path: str | os.PathLike) -> Outline:
    """What an adapter says of the one model that it is for; nothing, where its file is for several."""
    return Outline({}, {}) if recognise(path) in SINGLE_FILES else outline(path)


def _of_single_file(path: str | os.PathLike, component: str | None) -> Outline:
    parts = diffusers.read(path)
    if component is None and len(parts) > 1:
        raise VariantError(f"{path} is for {', '.join(parts)}: name one (--component)")
    if (chosen := component or next(iter(parts))) not in parts:
        raise VariantError(f"{path} has no {chosen}: it has {', '.join(parts)}")
    maps = {key.removeprefix("text_model."): learnt for key, learnt in parts[chosen].items()}
    shapes = _pairs({key: learnt.tensors for key, learnt in maps.items()})
    return Outline(shapes, {}, kernels={key: learnt.kernel for key, learnt in maps.items() if learnt.kernel})


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, int] | None]:
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        site, _, name = key.rpartition(".")
        layers.setdefault(site, {})[name] = tensor
    return _pairs(layers)


def _pairs(layers: dict[str, dict[str, Tensor]]) -> dict[str, tuple[int, int] | None]:
    """Shapes by A (r, in) and B (out, r); MergedLinear's A has more rows than B has columns."""
    maps: dict[str, tuple[int, int] | None] = {}
    for path, own in layers.items():
        a, b = own.get("lora_A"), own.get("lora_B")
        fits = a is not None and b is not None and len(a) == b.shape[1]
        maps[path] = (len(b), a.shape[1]) if fits else None
    return maps


def place_of(source: str | None, path: str | os.PathLike, none: str | None = None) -> str:
    """The folder or Hub id of an adapter's base model.

    Args:
        source: as a person names it; None: as the adapter's file does. A name that a package has given to a model of
            its own (entry points of the group `MODELS`, each a function from an architecture's name to a folder)
            stands for that model.
        none: is returned where the file names none; by default that is a mistake.

    Raises:
        VariantError: the file names none.
    """
    known = _named(path)
    if not (named := source or known.base):
        if none is not None:
            return none
        raise VariantError(f"{path} does not name its base model: give it (--model)")
    for entry in entry_points(group=MODELS):
        if entry.name == named and not Path(named).is_dir():
            return str(entry.load()(known.model_type))
    return named


def load_model(source: str, path: str | os.PathLike, component: str | None = None) -> nn.Module:
    """The model in folder (or of Hub id) ``source``, of the class and labels that an adapter needs.

    Args:
        component: which model of a pipeline, for adapters of diffusion models; None: as its class tells.

    Raises:
        VariantError: there is none, or it lacks weights that the adapter does not bring.
    """
    import transformers

    known = _named(path)
    denoiser = components_named(known.class_name)[:1] in (("unet",), ("transformer",))
    if component or denoiser or is_pipeline(source) or recognise(path) in SINGLE_FILES:
        with quiet(), refusing(f"cannot load the model {source!r}"):
            return load_component(source, component, known.class_name)
    labels = [len(tensor) for key, tensor in known.head.items() if _LABELS.search(key)]
    with quiet(), refusing(f"cannot load the model {source!r}"):
        changes: dict[str, Any] = {"num_labels": labels[-1]} if labels else {}
        if labels and len(known.labels) == labels[-1]:
            names = dict(enumerate(known.labels))
            changes |= {"id2label": names, "label2id": {name: number for number, name in names.items()}}
        if known.problem_type:
            changes["problem_type"] = known.problem_type
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **changes)
        name = known.class_name or (_AUTO["SEQ_CLS"] if labels else (config.architectures or ["AutoModel"])[0])
        cls, autos = getattr(transformers, name, None), {*_AUTO.values(), "AutoModel"}
        if not (isinstance(cls, type) and (name in autos or issubclass(cls, transformers.PreTrainedModel))):
            raise VariantError(f"{path} belongs to a {name!r}, which is no model class of transformers")
        model, loading = cls.from_pretrained(
            source, config=config, trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True
        )
    absent = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])} - known.head.keys()
    if absent:
        raise VariantError(f"{source!r} is not the adapter's base: as {type(model).__name__} it lacks {min(absent)}")
    return model


_CONVOLUTIONS = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
"""By the sides of a kernel's channel and its own."""


# ---- stand-in ----------------------------------------------------------------------------------------------


class _Conv1D(nn.Module):
    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.nf, self.bias = out_features, None


def stand_in(path: str | os.PathLike, component: str | None = None, random: bool = False) -> nn.Module:
    """A module tree with just the maps and the head that an adapter file names, enough to convert it.

    Args:
        random: the maps' weights are random numbers in place of zeros: what is another with them depends on the base.

    Raises:
        VariantError: the file does not tell enough.
    """
    with refusing(f"{path} does not tell its shapes"):
        return _stand_in(path, outline(path, component), random)


def _stand_in(path: str | os.PathLike, known: Outline, random: bool) -> nn.Module:
    model = type(known.class_name or "StandIn", (nn.Module,), {"is_stand_in": True})()
    model.config = SimpleNamespace(model_type=known.model_type)
    if not known.maps or any(shape is None or ":" in site for site, shape in known.maps.items()):
        raise VariantError(f"{path} does not tell the shapes of all it adapts: give the model as well (--model)")
    shapes: dict[str, tuple[int, int]] = {}
    for site, (out_features, in_features) in known.maps.items():
        module, _, role = site.rpartition(".")
        if fused := _fused(known, module, role):
            shapes[module] = _whole(fused, role, out_features, path), in_features
        else:
            shapes[site] = out_features, in_features
    forms = {name: (out, *known.kernels.get(name, (inside,))) for name, (out, inside) in shapes.items()}
    most = max(map(math.prod, forms.values()))
    values = torch.randn(most, generator=seeded(0, "stand-in")) if random else torch.zeros(()).expand(most)
    for name, form in forms.items():
        _put(model, name, _map(form, known.transposed, values))
    for key, tensor in known.head.items():
        parameter = nn.Parameter(tensor.clone())
        for name in known.tied.get(key, [key]):
            owner, _, leaf = name.rpartition(".")
            _put(model, owner, nn.Module()).register_parameter(leaf, parameter)
    return model


def _fused(known: Outline, module: str, role: str) -> Fused | None:
    """The fused map of the family at ``module``, if it has the role."""
    fused = family_of(known.model_type).fused
    return next((f for f in fused if role in f.roles and re.search(rf"{f.pattern}$", module)), None)


def _whole(fused: Fused, role: str, out_features: int, path: str | os.PathLike) -> int:
    """How many outputs a fused map has if one role's part has ``out_features``; a file may not tell it."""
    try:
        _, shares = fused.layout(SimpleNamespace())
    except AttributeError:
        what = f"{path} does not tell where {role} lies in its map"
        raise VariantError(f"{what}: give the model as well (--model)") from None
    return out_features * sum(shares) // shares[fused.roles.index(role)]


def _map(form: tuple[int, ...], transposed: bool, values: Tensor) -> nn.Module:
    """A linear map (out, in), or a convolution (out, C, k, k), of the first of ``values``, which all maps share."""
    out_features, *inside = form
    if len(inside) > 1:
        module = _CONVOLUTIONS[len(inside)](inside[0], out_features, inside[1:], bias=False, device="meta")
    else:
        linear = nn.Linear(*inside, out_features, bias=False, device="meta")
        module = _Conv1D(out_features) if transposed else linear
    shape = form[::-1] if transposed and len(form) == 2 else form
    module.weight = nn.Parameter(values[: math.prod(form)].view(shape), requires_grad=False)
    return module


def _put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Hang ``module`` into the tree under ``path``, unless there is one; return what is there."""
    for name in path.split(".")[:-1]:
        model = model._modules.setdefault(name, nn.Module())
    return model._modules.setdefault(path.rpartition(".")[2], module)
