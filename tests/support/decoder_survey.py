"""LoRA on every language model of transformers that can be built small: what trains, what is left out, what is refused.

``python -m tests.support.decoder_survey [MODEL_TYPE ...] [--write docs/models.md]`` prints a table, and writes it
between two marks of the file.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from tests.support.causal_models import model_types, tiny, tokens
from variants import LoRA, VariantError, attach
from variants.adapters.adapted_model import AdaptedModel
from variants.contract.models import shift
from variants.errors import LONGEST
from variants.sites import candidates
from variants.sites.aliases import ALIASES
from variants.sites.architectures import ARCHITECTURES

MERGED = 1e-3
"""Largest difference of logits between an adapter and its merged weights, relative to the largest logit."""


@dataclass
class Finding:
    """What became of LoRA with ``target=all-linear`` on one model type.

    Attributes:
        model_type: transformers' name.
        family: the row of the architecture table whose roles it has; "" where it has none.
        built: whether it could be built small and called; all else is empty where not.
        refused: the one line that refused it.
        adapted: how many maps have an adapter, in two blocks.
        left_out: what all-linear leaves out and why.
        uncalled: maps that no pass calls: their adapters do nothing, and training says so.
        still: tensors of called maps that got no gradient.
        merge: relative difference of the logits, merged against adapted.
        recomputed: relative difference of the gradients under gradient checkpointing; None where it is not supported.
        faults: what went wrong otherwise, which is nothing.
    """

    model_type: str
    family: str = ""
    built: bool = True
    refused: str = ""
    adapted: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    uncalled: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    merge: float = 0.0
    recomputed: float | None = None
    faults: list[str] = field(default_factory=list)


def examine(model_type: str) -> Finding:
    """Attach, a step, gradients with and without checkpointing, merge."""
    found = Finding(model_type)
    try:
        model = tiny(model_type)
        logits(model)
    except Exception as error:  # transformers' own refusals, of sizes or of packages that are not installed
        found.built, found.refused = False, f"{type(error).__name__}: {error}".split("\n")[0]
        return found
    own = model.config.model_type
    found.family = own if own in ARCHITECTURES else ALIASES.get(own, "")
    try:
        adapted = attach(model, LoRA(r=2, target="all-linear"))
    except VariantError as error:
        found.refused = str(error)
        if len(found.refused) > LONGEST or "\n" in found.refused:
            found.faults.append("the refusal is no line")
        return found
    found.adapted, found.left_out = len(adapted.layers), adapted.left_out
    base = logits(model).detach()
    with torch.no_grad():
        for index, layer in enumerate(adapted.layers):
            shift(layer.lora_B, index, 0.3)
    model.train()  # blocks are recomputed in training alone, and dropout has to be drawn as before
    plain = gradients(adapted)
    found.uncalled = adapted.uncalled()
    prefixes = tuple(f"{path}." for path in found.uncalled)
    found.still = [name for name, g in plain.items() if not g.any() and not name.startswith(prefixes)]
    if len(found.uncalled) < found.adapted and torch.equal(logits(model), base):
        found.faults.append("the output does not move")
    found.recomputed = recomputed(adapted, plain)
    model.eval()
    with torch.no_grad():
        for p in adapted.trained().values():
            p.sub_(0.1 * p.grad if p.grad is not None else 0)
        before = logits(model)
        adapted.merge()
        found.merge = ((logits(model) - before).abs().max() / before.abs().max()).item()
        adapted.unmerge()
        if not torch.equal(logits(model), before):
            found.faults.append("unmerging is not exact")
    if not found.merge < MERGED:
        found.faults.append(f"merged logits differ by {found.merge:.1e}")
    if found.recomputed is not None and not found.recomputed < 1e-3:
        found.faults.append(f"recomputed gradients differ by {found.recomputed:.1e}")
    return found


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Scores of the next tokens of a fixed batch."""
    return model(input_ids=tokens(), use_cache=False).logits.float()


def gradients(adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    """Of a fixed batch's loss, zeros where there are none."""
    for p in adapted.trained().values():
        p.grad = None
    torch.manual_seed(0)
    scores, ids = logits(adapted.model), tokens()
    F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in adapted.trained().items()}


def recomputed(adapted: AdaptedModel, plain: dict[str, torch.Tensor]) -> float | None:
    """How far gradients under checkpointing are from those without, relative to the largest."""
    model = adapted.model
    if not model.supports_gradient_checkpointing:
        return None
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients(adapted)
    model.gradient_checkpointing_disable()
    size = max(g.abs().max().item() for g in plain.values())
    return max((again[n] - g).abs().max().item() for n, g in plain.items()) / size


WORDS = {
    candidates.OUTPUT: "output embedding",
    candidates.ROUTER: "routers",
    candidates.INDEXER: "indexers",
    candidates.OUTSIDE: "maps outside the blocks",
    candidates.CAN_EXPERTS: "experts",
    candidates.EXPERTS: "experts (which cannot be adapted)",
    candidates.TENSOR: "3D parameters that are no maps",
}
"""What is left out, in few words; whatever is not here is called by its name."""


def row(found: Finding) -> str:
    """A line of the table."""
    family = f"as {found.family}" if found.family not in ("", found.model_type) else "yes" if found.family else "–"
    if not found.built:
        return f"| {found.model_type} | {family} | not built | | {_cell(found.refused)} |"
    if found.refused:
        return f"| {found.model_type} | {family} | refused | | {_cell(found.refused)} |"
    notes = [*found.faults]
    if found.uncalled:
        notes.append(f"not called by text alone: {', '.join(_leaves(found.uncalled))}")
    if found.still:
        notes.append(f"without gradient: {', '.join(_leaves(found.still))}")
    if found.recomputed is None:
        notes.append("no gradient checkpointing")
    left = [
        WORDS.get(why) or ("tied output embedding" if "tied" in why else f"{_leaves([path])[0]} (never called)")
        for path, why in found.left_out.items()
    ]
    cells = (found.model_type, family, str(found.adapted), ", ".join(dict.fromkeys(left)), _cell("; ".join(notes)))
    return f"| {' | '.join(cells)} |"


def _leaves(paths: list[str]) -> list[str]:
    short = (re.sub(r".*\.\d+\.(?=\D)", "", path) for path in paths)
    return list(dict.fromkeys(re.sub(r"\.lora_[AB]$", "", path) for path in short))


def _cell(text: str) -> str:
    return text.replace("|", "/")[:160]


BEGIN, END = "<!-- survey -->", "<!-- end of the survey -->"


def table(findings: list[Finding]) -> str:
    """All findings in Markdown."""
    import transformers

    head = f"transformers {transformers.__version__}, LoRA with `target=all-linear`, models of two blocks:"
    columns = "| model type | roles | maps adapted | left out | |\n|---|---|---|---|---|"
    return "\n".join([head, "", columns, *map(row, findings)]) + "\n"


def main(arguments: list[str]) -> None:
    """The command."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    findings = []
    for name in options.names or model_types():
        try:
            findings.append(examine(name))
        except Exception as error:
            findings.append(Finding(name, faults=[f"{type(error).__name__}: {error}".split("\n")[0]]))
        print(row(findings[-1]), flush=True)
    if options.write:
        before, _, rest = options.write.read_text().partition(BEGIN)
        options.write.write_text(f"{before}{BEGIN}\n\n{table(findings)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main(sys.argv[1:])
