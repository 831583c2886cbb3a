"""``load_run``: the model and the tokenizer of a trained run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modules.backbones.loading import expect_weights, load_backbone, load_language_model, resolve
from modules.embedded import FOLDERS
from modules.inference.trained import Trained, trained
from modules.runs.results import RunResult
from variants.errors import UserError
from variants.formats.native import load
from variants.new_tokens import described
from variants.variant import BaseVariant

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Head:
    """What the classification head gives, in transformers' words."""

    num_labels: int
    problem_type: str
    labels: tuple[str, ...]


def load_run(
    run: str | os.PathLike[str] | RunResult,
    which: str = "best",
    *,
    model: str | os.PathLike[str] | None = None,
    variant: str | type[BaseVariant] | None = None,
    results_dir: str | os.PathLike[str] = "results",
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a run with its adapter on it, and the tokenizer.

    Args:
        run: a result of `modules.train`; the folder of a run or of one of its adapters; or a run's id.
        which: the adapter of the "best" epoch or of the "last".
        model: the base model, a folder or Hub id, where it is not where the run had it.
        variant: the class, or ``FILE.py:CLASS``, of a run whose variant is not the project's.
        results_dir: where an id is looked up.
        device: where the model is put, such as "cuda"; by default the CPU.

    Returns:
        The transformers model in eval mode, its labels named in `config.id2label`, and its tokenizer, whose chat
        template is the one that a run of instruct.py was trained with.

    Raises:
        UserError: no such run, an adapter that is gone or damaged, no such base model, or another one than the run's.
    """
    return loaded(trained(run, which, results_dir), model, variant, device)


def loaded(
    found: Trained,
    model: str | os.PathLike[str] | None = None,
    variant: str | type[BaseVariant] | None = None,
    device: str | torch.device | None = None,
    dtype: str = "float32",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As `load_run`, of what is known already, with the base's weights in ``dtype``."""
    if not getattr(found.of, "auto_class", "Auto").startswith("Auto"):
        raise UserError(f"{found.folder} is of an image model, which paints: paper_repro/dreambooth.py --combine FILE")
    spec, embedded = _base(found, model)
    expect_weights(resolve(spec, embedded)[2], spec, found.backbone["hash"])
    if found.num_labels is None:
        whole, tokenizer, backbone = load_language_model(spec, embedded or found.of.embedded(), dtype)
    else:
        head = _Head(found.num_labels, found.problem_type or "single_label_classification", found.labels)
        whole, tokenizer, backbone = load_backbone(spec, head, dtype=dtype, embedded=embedded)
    limits = (found.inputs.get("max_length"), backbone.max_length, tokenizer.model_max_length)
    tokenizer.model_max_length = min(limit for limit in limits if limit)
    tokenizer.padding_side = found.inputs.get("padding_side", "right")
    load(whole, found.folder, variant=variant, quantised=True)
    if new := described(whole):
        tokenizer.add_tokens(new["tokens"])
    if "template" in found.inputs:  # a run of turns: the tokenizer writes them as it was trained on them
        from modules.benchmarks.instruct.rows.chat import prepare

        prepare(tokenizer, found.inputs["template"])
    return whole.to(device or "cpu").eval(), tokenizer


def _base(found: Trained, model: str | os.PathLike[str] | None) -> tuple[str, tuple[str, Path] | None]:
    """(what to load the base model by, what "embedded" stands for)."""
    name = found.backbone["name"]
    spec = str(model or found.backbone.get("spec") or name)
    if spec == "embedded":
        return spec, (name, FOLDERS[name]) if name in FOLDERS else None
    if not model and found.backbone["source"] == "folder" and not Path(spec).is_dir():
        raise UserError(f"the base model of {found.folder} is not in {spec} any more; say where: --model, or model=")
    return spec, None
