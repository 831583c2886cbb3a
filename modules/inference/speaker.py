"""``speaker``: a language model to talk to, from whatever training left: a run, an adapter's folder, a merged model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modules.documents import read_json
from modules.embedded import LLAMA
from modules.inference.trained import ADAPTER, trained
from variants.errors import UserError
from variants.sites.kinds.few_bits import numel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PEFT = "adapter_config.json"
EMBEDDED = ("embedded-llama", LLAMA)


@dataclass(frozen=True)
class Speaker:
    """A language model and how it is spoken to.

    Attributes:
        model: in eval mode, on a GPU where there is one.
        tokenizer: its own; its chat template is the one to use.
        title: what it is, for people.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    title: str


def speaker(
    source: str | os.PathLike[str],
    which: str = "best",
    *,
    model: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    results_dir: str | os.PathLike[str] = "results",
) -> Speaker:
    """The language model that ``source`` names.

    Args:
        source: the folder of a run of instruct.py, its result file or its id; the folder of an adapter, ours or PEFT's;
            a transformers model, merged or not, as a folder or Hub id; or "embedded".
        which, variant, results_dir: as `modules.load_run` takes them.
        model: the base model of an adapter, a folder or Hub id, where it is not where the adapter's file says.

    Raises:
        UserError: there is no such thing, it writes no text or not in turns, or its base model is not there.
    """
    import torch

    from modules.benchmarks.instruct.rows.chat import prepare

    cuda = torch.cuda.is_available()
    dtype = "bfloat16" if cuda and torch.cuda.is_bf16_supported() else "float32"
    place = Path(source).expanduser()
    if (place / PEFT).is_file() or ((place / ADAPTER).is_file() and _has_no_run(place)):
        whole, tokenizer = _adapter(place, model, variant, dtype)
        template = None
    elif model is None and _is_model(source, place):
        whole, tokenizer = _language_model(str(source), dtype)
        template = None
    else:
        from modules.inference.load import loaded

        run = Path(results_dir) / "runs" / place.name
        if not any(path.exists() for path in (place, run, run.with_suffix(".json"))):
            raise UserError(
                f"there is no run, adapter or model {str(source)!r}: name the folder of one, such as "
                "results/runs/0123456789ab"
            )
        found = trained(source, which, results_dir)
        if found.num_labels is not None or "template" not in found.inputs:
            raise UserError(
                f"{found.folder} was trained on {found.benchmark} {found.task}, not to answer in turns: "
                "paper_repro/predict.py says what it makes of a text"
            )
        whole, tokenizer = loaded(found, model, variant, dtype=dtype)
        template = found.inputs["template"]
    note = prepare(tokenizer, template)
    title = f"{source}: {type(whole).__name__}, {sum(map(numel, whole.parameters())) / 1e6:,.0f}M parameters"
    whole = whole.to("cuda" if cuda else "cpu").eval()
    return Speaker(whole, tokenizer, f"{title}; {note}" if note else title)


def _is_model(source: str | os.PathLike[str], place: Path) -> bool:
    """Whether a name means a transformers model, and no run."""
    if place.exists():
        return (place / "config.json").is_file() and "model_type" in (read_json(place / "config.json") or {})
    return str(source) == "embedded" or ("/" in str(source) and not place.is_absolute() and place.suffix != ".json")


def _has_no_run(place: Path) -> bool:
    """Whether an adapter's file does not say how it was trained: it was saved by hand."""
    notes = read_json(place / ADAPTER)
    return isinstance(notes, dict) and "benchmark" not in notes and not (place.parent / "config.json").is_file()


def _adapter(
    place: Path, model: str | os.PathLike[str] | None, variant: str | None, dtype: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An adapter of any format on its base model."""
    from variants import formats
    from variants.base_model import place_of

    whole, tokenizer = _language_model(place_of(model and str(model), place), dtype)
    formats.load(whole, place, variant=variant, quantised=True)
    return whole, tokenizer


def _language_model(spec: str, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from modules.backbones.loading import load_language_model

    return load_language_model(spec, EMBEDDED, dtype)[:2]
