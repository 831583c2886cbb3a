"""``python -m variants.convert``: an adapter from one file format to another."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from variants.command_line import Parser
from variants.errors import VariantError, exit_code

HELP = """\
Rewrite an adapter in another format. The format of SRC is told by its files:

  ours     a folder with adapter.json and adapter.safetensors
  peft     a folder with adapter_config.json and adapter_model.safetensors
  loralib  a file: a torch state dict with <module>.lora_A and <module>.lora_B (LoRA only)

LoRA, DoRA, VeRA and AdaLoRA can be taken to PEFT and back; what a format cannot hold is named, and nothing is written.
Any other declared low-rank update goes to PEFT as a LoRA that computes the same: --as lora.

examples:
  python -m variants.convert results/runs/a1b2c3/best my-peft-adapter --to peft
  python -m variants.convert roberta_base_lora_mnli.bin mnli --to ours --alpha 16 --model roberta-base
  python -m variants.convert gpt2-vera peft-vera --to peft --model gpt2-medium
  python -m variants.convert results/runs/d4e5f6/best my-lora --to peft --as lora --variant my_file.py:MyVariant
"""
MODEL_HELP = "transformers model folder or Hub id"
VARIANT_HELP = "the method's own file, if it is not the project's: an adapter folder names it, but brings no code"


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str,
    model: str | None = None,
    alpha: float | None = None,
    variant: str | None = None,
    as_lora: bool = False,
) -> str:
    """Write the adapter in ``source`` as ``target`` in format ``to``: ours, peft or loralib.

    Args:
        source: adapter folder, or loralib file.
        target: folder (ours, peft) or file (loralib) to write.
        to: the format to write.
        model: base model; without it the shapes in the file must do, and its fingerprint is not recorded. PEFT's files
            name it, or else the one that ``source`` names.
        alpha: LoRA's alpha, which loralib's files do not hold.
        variant: ``FILE.py:CLASS`` of an adapter whose variant is not the project's.
        as_lora: write to PEFT's format, as LoRA, whatever declares a low-rank update; it computes the same.

    Returns:
        One line about what was written.

    Raises:
        VariantError: the format cannot hold the adapter, or the file does not tell enough without a model.
    """
    from variants import base_model as base
    from variants import formats
    from variants.formats import loralib, peft
    from variants.formats import native as files
    from variants.formats.boundary import refusing

    with refusing(f"cannot write {target}"):
        same = Path(target).exists() and Path(target).resolve() == Path(source).resolve()
    if same:
        raise VariantError(f"{target} is the source itself: choose another place")
    if as_lora and to != "peft":
        raise VariantError(f"--as lora is for --to peft, not for {to}")
    place = base.place_of(model, source, none="")
    loaded = base.load_model(place, source) if model else base.stand_in(source)
    if hasattr(loaded, "config"):  # PEFT's files name it
        loaded.config._name_or_path = str(Path(place).resolve()) if Path(place).is_dir() else place
    adapted = formats.load(loaded, source, alpha=alpha, variant=variant)
    adapted.shrink()  # what was pruned is in no file
    note = ""
    if to == "peft":
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            peft.save(adapted, target, as_lora)
        note = "".join(f"; {each.message}" for each in notes) + ("; as LoRA" if as_lora else "")
    elif to == "loralib":
        note = f"; loralib files do not hold alpha, give its reader lora_alpha={loralib.save(adapted, target):g}"
    else:
        counts = adapted.count() | ({} if model else {"total": None})
        files.save_adapter(adapted, target, parameters=counts)
    return f"{target}: {adapted.variant.name} in {'our' if to == 'ours' else to} format{note}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0, or 2 after a mistake of the user's."""
    parser = Parser(HELP, prog="python -m variants.convert")
    parser.add_argument("source", metavar="SRC", help="adapter folder, or loralib file")
    parser.add_argument("target", metavar="DST", help="folder (ours, peft) or file (loralib) to write")
    parser.add_argument("--to", required=True, choices=("ours", "peft", "loralib"), help="format to write")
    parser.add_argument("--model", help=f"base model ({MODEL_HELP}); needed for VeRA and slices of unknown width")
    parser.add_argument("--alpha", type=float, help="LoRA's alpha, which loralib files do not hold")
    parser.add_argument("--as", choices=("lora",), dest="as_", help="for --to peft: any low-rank update as exact LoRA")
    parser.add_argument("--variant", metavar="FILE:CLASS", help=VARIANT_HELP)

    def command() -> int:
        given = parser.parse_args(arguments)
        print(convert(given.source, given.target, given.to, given.model, given.alpha, given.variant, bool(given.as_)))
        return 0

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
