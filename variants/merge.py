"""``python -m variants.merge``: an adapter and its base model as one plain transformers model."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from variants.command_line import Parser
from variants.convert import MODEL_HELP, VARIANT_HELP
from variants.errors import VariantError, exit_code
from variants.schemes import SCHEMES

if TYPE_CHECKING:
    from variants.adapters.adapted_model import AdaptedModel
    from variants.quantisation import MergeErrors

HELP = """\
Fold an adapter (of any format that python -m variants.convert knows) into its base model and write a plain
transformers model folder: configuration (with the names of the labels), weights, and the base's tokenizer.

example:
  python -m variants.merge results/runs/a1b2c3/best --out roberta-mrpc
  python -m variants.merge results/runs/d4e5f6/best --out qlora --onto original   (trained with --quantise nf4)
  python -c "from transformers import pipeline; print(pipeline('text-classification', 'roberta-mrpc')('A|A'))"
"""
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "spm.model", "tokenizer.model"),
    *("sentencepiece.bpe.model", "chat_template.jinja", "preprocessor_config.json"),
)


class Merged(NamedTuple):
    """What came out of merging.

    Attributes:
        difference: the largest difference between a merged map and base plus adapter, on random inputs.
        errors: of an adapter that was trained on a base in few bits.
    """

    difference: float
    errors: MergeErrors | None


def merge(
    adapter: str | os.PathLike,
    model: str | None,
    out: str | os.PathLike,
    alpha: float | None = None,
    variant: str | None = None,
    onto: str = "dequantised",
    quantised: str | None = None,
) -> Merged:
    """Write ``model`` with ``adapter`` folded into its weights to the new folder ``out``.

    Args:
        adapter: adapter folder, or loralib file.
        model: folder or Hub id of the base model; None: the one that the adapter's file names.
        out: folder to write; it must be absent or empty.
        alpha: LoRA's alpha, which loralib's files do not hold.
        variant: ``FILE.py:CLASS`` of an adapter whose variant is not the project's.
        onto: of an adapter that was trained on a base in few bits, "dequantised": the weights that its codes stand for,
            all of the model's; or "original": the base as it was before.
        quantised: the scheme (`variants.schemes`) of that base, where the adapter's file does not say it.

    Raises:
        VariantError: the adapter cannot be merged or does not fit, or ``out`` exists.
    """
    from transformers.utils import cached_file

    from variants import base_model as base
    from variants import formats, new_tokens
    from variants.formats.boundary import refusing
    from variants.quantisation import dequantise

    out = Path(out)
    with refusing(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VariantError(f"{out} exists already: choose another folder, or empty it")
    model = base.place_of(model, adapter)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was trained on a base in ")  # that is the matter here
        adapted = formats.load(base.load_model(model, adapter), adapter, alpha=alpha, variant=variant)
    state = adapted.state_dict()
    if broken := [key for key, t in state.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise VariantError(f"{adapter} is not merged: {broken[0]} has values that are not finite (NaN or infinity)")
    adapted.shrink()  # what was pruned adds nothing
    errors = _leave_few_bits(adapted, adapter, onto, quantised)
    merged = Merged(adapted.merge(), errors)
    dequantise(adapted.model)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        whole = Path(temporary) / "model"
        with base.quiet():
            adapted.model.save_pretrained(whole)
        for name in TOKENIZER:
            found = cached_file(
                model,
                name,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            if found:
                shutil.copyfile(found, whole / name)
        if new := new_tokens.described(adapted.model):
            _add_to_tokenizer(whole, new["tokens"])
        os.replace(whole, out)
    return merged


def _leave_few_bits(
    adapted: AdaptedModel, path: str | os.PathLike, onto: str, scheme: str | None
) -> MergeErrors | None:
    """Bring the base to what is merged into; what that costs, of an adapter that was trained on one in few bits."""
    from variants.formats.common import recognise
    from variants.formats.native import read_adapter
    from variants.quantisation import merge_errors, quantise, scheme_in

    noted = read_adapter(path)[0].get("base", {}).get("quantisation") if recognise(path) == "ours" else None
    if not (scheme or noted):
        return None
    how = scheme_in({"scheme": scheme, "compute_dtype": "float32"} if scheme else noted, path)
    errors = merge_errors(adapted, *how)
    if onto == "dequantised":
        quantise(adapted, how[0], compute_dtype=how[1])
    return errors


def _add_to_tokenizer(folder: Path, tokens: Sequence[str]) -> None:
    """Have the tokenizer in a model's folder know new tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0, or 2 after a mistake of the user's."""
    parser = Parser(HELP, prog="python -m variants.merge")
    parser.add_argument("adapter", metavar="ADAPTER", help="adapter folder, or loralib file")
    parser.add_argument("--model", help=f"its base model ({MODEL_HELP}; default: the one that its file names)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="model folder to write; it must not exist yet")
    parser.add_argument("--alpha", type=float, help="LoRA's alpha, which loralib files do not hold")
    parser.add_argument(
        "--onto",
        choices=("dequantised", "original"),
        default="dequantised",
        help="of an adapter trained with --quantise: the weights that the codes stand for, or those before "
        "(default: dequantised)",
    )
    parser.add_argument(
        "--quantise", choices=SCHEMES, help="in how few bits its base was, where the adapter's file does not say"
    )
    parser.add_argument("--variant", metavar="FILE:CLASS", help=VARIANT_HELP)

    def command() -> int:
        given = parser.parse_args(arguments)
        from variants.formats.boundary import refusing

        with refusing(f"cannot write {given.out}"):
            merged = merge(
                given.adapter, given.model, given.out, given.alpha, given.variant, given.onto, given.quantise
            )
        print(f"{given.out}: merged; largest difference of a map's output {merged.difference:.1e}")
        if merged.errors:
            print(
                f"onto the {given.onto} base. Errors of the adapted maps, against the adapter on the base in few bits: "
                f"merged {merged.errors.merged:.1e}, on the original base {merged.errors.original:.1%}, merged and "
                f"quantised again {merged.errors.requantised:.1%}"
            )
        return 0

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
