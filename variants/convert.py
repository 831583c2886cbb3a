"""``python -m variants.convert``: an adapter from one file format to another."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from variants.command_line import Parser
from variants.errors import UserError, VariantError, exit_code

if TYPE_CHECKING:
    from torch import nn

    from variants.adapters.adapted_model import AdaptedModel
    from variants.formats.peft import AsLoRA

HELP = """\
Rewrite an adapter in another format. The format of SRC is told by its files:

  ours     a folder with adapter.json and adapter.safetensors
  peft     a folder with adapter_config.json and adapter_model.safetensors
  loralib  a file: a torch state dict with <module>.lora_A and <module>.lora_B (LoRA only)
  diffusers  pytorch_lora_weights.safetensors, or a folder with it: LoRA and DoRA of a pipeline's models
  kohya    a file with lora_unet_..., lora_te_...: the same, as most of the community's tools write it (needs --model)

LoRA, DoRA, VeRA and AdaLoRA can be taken to PEFT and back; what a format cannot hold is named, and nothing is written.
Any declared low-rank update goes to PEFT as a LoRA that computes the same: --as lora. Any other update of weights goes
as the LoRA nearest to it, with its error at each map: --as lora --rank 16, or --rank auto for as few as keep to
--max_error. Where an update depends on the base weights, that needs the model: --model, or the one that SRC names.
--to vllm writes PEFT's format where vLLM can serve it, and says how.
A file of diffusers' or kohya's is for several models of a pipeline; here each has a folder of its own. SRC may be a
folder of such folders (unet, transformer, text_encoder, text_encoder_2, text_encoder_3); --to ours then writes one.

examples:
  python -m variants.convert results/runs/a1b2c3/best my-peft-adapter --to peft
  python -m variants.convert roberta_base_lora_mnli.bin mnli --to ours --alpha 16 --model roberta-base
  python -m variants.convert gpt2-vera peft-vera --to peft --model gpt2-medium
  python -m variants.convert results/runs/d4e5f6/best my-lora --to peft --as lora --variant my_file.py:MyVariant
  python -m variants.convert my-dora served --to vllm --as lora --rank 16 --model path/to/model
  python -m variants.convert results/runs/b5c6d7/best style.safetensors --to kohya
  python -m variants.convert style.safetensors style --to ours --model path/to/pipeline
"""
FORMATS = {"ours": "our", "vllm": "peft"}
AS_LORA = ("peft", "vllm", "diffusers", "kohya")
"""Formats in which other methods can be written as LoRA."""
MODEL_HELP = "transformers model folder or Hub id"
VARIANT_HELP = "the method's own file, if it is not the project's: an adapter folder names it, but brings no code"


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str,
    model: str | None = None,
    alpha: float | None = None,
    variant: str | None = None,
    as_lora: bool | AsLoRA = False,
    component: str | None = None,
) -> str:
    """Write the adapter in ``source`` as ``target`` in format ``to``: ours, peft, vllm, diffusers, kohya or loralib.

    Args:
        source: adapter folder, file of diffusers', kohya's or loralib's, or a folder of adapter folders by component.
        target: folder (ours, peft, vllm, diffusers) or file (diffusers, kohya, loralib) to write.
        to: the format to write; vllm is PEFT's where vLLM can serve it.
        model: base model; without it the shapes in the file must do, and its fingerprint is not recorded. PEFT's files
            name it, or else the one that ``source`` names. A LoRA near another method is made of the model: of this
            one, or of the one that ``source`` names.
        alpha: LoRA's alpha, which loralib's files do not hold.
        variant: ``FILE.py:CLASS`` of an adapter whose variant is not the project's.
        as_lora: write to PEFT's format as LoRA: whatever declares a low-rank update, which computes the same; of
            anything else the nearest, as `variants.formats.peft.AsLoRA` says.
        component: the one model of a pipeline that is meant, such as text_encoder_2; None: all that there are, or what
            a model's class tells.

    Returns:
        A line about what was written; before it, of a LoRA near another method, one for each map.

    Raises:
        VariantError: the format cannot hold the adapter, or the file does not tell enough without a model.
    """
    from variants.formats.boundary import refusing
    from variants.formats.common import SINGLE_FILES

    with refusing(f"cannot write {target}"):
        same = Path(target).exists() and Path(target).resolve() == Path(source).resolve()
    if same:
        raise VariantError(f"{target} is the source itself: choose another place")
    if as_lora and to not in AS_LORA:
        raise VariantError(f"--as lora is for --to {', '.join(AS_LORA)}, not for {to}")
    near = getattr(as_lora, "approximates", False)
    found = {
        name: _load(path, model, to == "ours", near, alpha, variant, name)
        for name, path in _sources(source, model, component).items()
    }
    for adapted in found.values():
        adapted.shrink()  # what was pruned is in no file
    if to in SINGLE_FILES:
        return _write_single_file(found, target, to, as_lora)
    places = {name: target if len(found) == 1 else Path(target) / str(name) for name in found}
    return "\n".join(_write(adapted, places[name], to, bool(model), as_lora) for name, adapted in found.items())


def _sources(
    source: str | os.PathLike, model: str | None, component: str | None
) -> dict[str | None, str | os.PathLike]:
    """Component -> where its adapter is; one without a name where there is one adapter, of whatever model."""
    from variants.formats import diffusers, kohya
    from variants.formats.common import SINGLE_FILES, recognise
    from variants.formats.diffusers.parts import COMPONENTS
    from variants.pipeline import is_pipeline

    folders = {name: Path(source) / name for name in COMPONENTS if (Path(source) / name / "adapter.json").is_file()}
    if folders and not (Path(source) / "adapter.json").is_file():
        if component and component not in folders:
            raise VariantError(f"{source} has no {component}: it has {', '.join(folders)}")
        return {component: folders[component]} if component else folders
    if component or recognise(source) not in SINGLE_FILES or (model and not is_pipeline(model)):
        return {component: source}
    if recognise(source) == "diffusers":
        return {name or None: source for name in diffusers.read(source)}
    return dict.fromkeys(kohya.components(source, model), source)


def _write_single_file(
    found: dict[str | None, AdaptedModel], target: str | os.PathLike, to: str, as_lora: bool | AsLoRA
) -> str:
    """One file of the adapters of a pipeline's models."""
    from variants.formats import diffusers, kohya
    from variants.formats.diffusers.parts import components_for

    named = {}
    for name, adapted in found.items():
        known = components_for(adapted.model)
        if name is None and not known:
            kind = type(adapted.model).__name__
            raise VariantError(f"what {kind} is in a pipeline is not known: say it (--component)")
        named[name or known[0]] = adapted
    file = {"diffusers": diffusers, "kohya": kohya}[to].save(named, target, as_lora)
    methods = ", ".join(f"{adapted.variant.name} of {name}" for name, adapted in named.items())
    return f"{file}: {methods} in {to} format{'; as LoRA' if as_lora else ''}"


def _write(adapted: AdaptedModel, target: str | os.PathLike, to: str, given: bool, as_lora: bool | AsLoRA) -> str:
    """One adapter in a place of its own."""
    from variants.formats import loralib
    from variants.formats import native as files

    before, note = "", ""
    if to in ("peft", "vllm"):
        before, note = _write_peft(adapted, target, to, as_lora)
    elif to == "loralib":
        note = f"; loralib files do not hold alpha, give its reader lora_alpha={loralib.save(adapted, target):g}"
    else:
        counts = adapted.count() | ({} if given else {"total": None})
        files.save_adapter(adapted, target, parameters=counts)
    return f"{before}{target}: {adapted.variant.name} in {FORMATS.get(to, to)} format{note}"


def _load(
    source: str | os.PathLike,
    model: str | None,
    ours: bool,
    near: bool,
    alpha: float | None,
    variant: str | None,
    name: str | None,
) -> AdaptedModel:
    """The adapter on its base model, or on a stand-in where that does.

    Args:
        model: of the command.
        ours: it is to be written as it was trained: what its layers make of the base is made where it is loaded.
        near: what the adapter adds to base weights is wanted, which may depend on them.
        name: of the model in its pipeline, if it is known to be in one.

    Raises:
        VariantError: the file does not tell its shapes, or what it adds depends on the base weights, and no model is
            named that has them.
    """
    from variants import base_model as base
    from variants import formats
    from variants.adapters.update import first_that_differs, is_low_rank

    place = base.place_of(model, source, none="")

    def on(found: nn.Module) -> AdaptedModel:
        if hasattr(found, "config"):  # PEFT's files name it
            found.config._name_or_path = str(Path(place).resolve()) if Path(place).is_dir() else place
        return formats.load(found, source, alpha=alpha, variant=variant, component=name)

    if model:
        return on(base.load_model(place, source, name))
    try:
        adapted = on(base.stand_in(source, name))
        path = first_that_differs(adapted.adapter, on(base.stand_in(source, name, random=True)).adapter, starts=ours)
        others = [layer.site.path for layer in adapted.layers if near and not is_low_rank(layer)]
        if not (needed := path or next(iter(others), None)):
            return adapted
        if not place:
            what = f"what {adapted.variant.name} adds to {needed} depends on base weights"
            raise VariantError(f"{what}: give the model (--model)")
    except VariantError:
        if not (near and place):
            raise
    return on(base.load_model(place, source, name))


def _write_peft(adapted: AdaptedModel, target: str | os.PathLike, to: str, as_lora: bool | AsLoRA) -> tuple[str, str]:
    """Write PEFT's folder; lines before what is said of it, and the end of that."""
    from variants.formats import peft
    from variants.formats.common import is_stand_in
    from variants.formats.peft import vllm

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        written = peft.prepare(adapted, as_lora)
    if to == "vllm":
        vllm.refuse(written.config, written.tensors)
    written.write(Path(target))
    note = "".join(f"; {each.message}" for each in notes) + ("; as LoRA" if as_lora else "")
    before = ""
    if written.left_out:
        errors = written.errors()
        before = "".join(f"r={m['r']:<4} {m['relative_error']:.1e}  {path}\n" for path, m in errors["maps"].items())
        whose = "without the base" if is_stand_in(adapted.model) else "with the base's weights"
        note += f", made {whose}, whose relative error is {errors['relative_error']:.1e} ({peft.NEAREST})"
    if to == "vllm":
        note += f"\n{vllm.command(str(target), written.config['base_model_name_or_path'], written.config)}"
    return before, note


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0, or 2 after a mistake of the user's."""
    parser = Parser(HELP, prog="python -m variants.convert")
    parser.add_argument("source", metavar="SRC", help="adapter folder, or file of diffusers', kohya's or loralib's")
    parser.add_argument("target", metavar="DST", help="folder (ours, peft, vllm, diffusers) or file to write")
    kinds = ("ours", "peft", "vllm", "diffusers", "kohya", "loralib")
    parser.add_argument("--to", required=True, choices=kinds, help="format to write")
    parser.add_argument("--model", help=f"base model ({MODEL_HELP}); needed for unknown shapes, and for its weights")
    parser.add_argument("--alpha", type=float, help="LoRA's alpha, which loralib files do not hold")
    as_help = f"any update of weights as LoRA, for {', '.join(AS_LORA)}"
    parser.add_argument("--as", choices=("lora",), dest="as_", help=as_help)
    parser.add_argument("--rank", metavar="R", help="with --as lora: the most that each map has, or auto")
    parser.add_argument("--max_error", type=float, metavar="E", help="with --rank auto: of each map (default: 0.01)")
    parser.add_argument("--variant", metavar="FILE:CLASS", help=VARIANT_HELP)
    parser.add_argument("--component", metavar="NAME", help="which model of a pipeline, such as text_encoder_2")

    def command() -> int:
        given = parser.parse_args(arguments)
        as_lora = _as_lora(given.as_, given.rank, given.max_error)
        options = (given.model, given.alpha, given.variant, as_lora, given.component)
        print(convert(given.source, given.target, given.to, *options))
        return 0

    return exit_code(command)


def _as_lora(wanted: str | None, rank: str | None, max_error: float | None) -> bool | AsLoRA:
    """What ``--as``, ``--rank`` and ``--max_error`` say together. Raises UserError where they do not fit."""
    if rank is None and max_error is None:
        return wanted is not None
    if wanted is None:
        raise UserError("--rank and --max_error go with --as lora")
    if rank is not None and rank != "auto" and not rank.isdecimal():
        raise UserError(f"--rank must be a whole number or auto, not {rank!r}")
    if max_error is not None and rank != "auto":
        raise UserError("--max_error goes with --rank auto: a rank says itself how near it comes")
    from variants.formats.peft import AsLoRA

    return AsLoRA(max_error=0.01 if max_error is None else max_error) if rank == "auto" else AsLoRA(int(rank))


if __name__ == "__main__":
    sys.exit(main())
