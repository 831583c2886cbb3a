"""The test set of a finished run decoded again, with other search settings and without training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from modules.backbones.loading import expect_weights
from modules.backbones.loading import resolve as resolve_backbone
from modules.benchmarks.causal.decode import decode
from modules.benchmarks.e2e import E2E
from modules.benchmarks.e2e.settings import SEARCH
from modules.runs.config import RunConfig
from variants.adapters.adapted_model import attach
from variants.errors import UserError
from variants.formats.native import restore
from variants.named import named_in
from variants.outside.options import build


def redecode(
    folder: Path,
    given: dict[str, Any],
    epoch: str | None = None,
    data_dir: str | None = None,
    model: str | None = None,
    reference: bool = False,
    variant: str | None = None,
) -> tuple[list[str], list[list[str]], dict[str, Any]]:
    """Decode the test set of the run in ``folder``.

    Args:
        given: search settings that replace the run's.
        epoch: whose weights, "best" or "last"; by default the run's ``score_epoch``.
        data_dir, model: of the run, where they have been moved since.
        reference: without acceleration.
        variant: ``FILE.py:CLASS`` of a run whose variant is not the project's.

    Returns:
        Outputs, groups of references, and all search settings with the seconds ``decode_s``.

    Raises:
        UserError: there is no such run, its adapters are gone, or backbone or data have other content.
    """
    E2E.settings.check(given, "settings")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.json")
    config = RunConfig.read(str(folder.parent.parent), folder.name)
    if config.benchmark != E2E.name:
        raise UserError(f"{folder} is a run of {config.benchmark}, not of E2E")
    cls = named_in(folder, config.variant, config.code, variant)
    config.training |= given
    config.reference = config.reference or reference
    config.backbone["spec"] = model or config.backbone.get("spec", "")
    config.data["spec"] = data_dir or config.data.get("spec", "")
    folder_of_weights = resolve_backbone(config.backbone["spec"], E2E.embedded())[2]
    expect_weights(folder_of_weights, config.backbone["spec"], config.backbone["hash"])
    prepared = E2E.prepare(config)
    adapted = attach(prepared.model, build(cls, config.options), config.seed)
    if adapted.trained():
        which = epoch or prepared.objective.score_epoch
        adapter = folder / ("best" if which == "none" else which)
        if not adapter.is_dir():
            raise UserError(f"{adapter} is not there: the run is not finished, or its adapters were not kept")
        restore(adapted, adapter)
    prepared.model.to("cuda" if torch.cuda.is_available() else "cpu")
    objective, start = prepared.objective, time.perf_counter()
    test = objective.inputs["test"]
    outputs = decode(prepared.model, test.ids, objective.tokenizer, objective.decoding)
    used = {name: value for name in SEARCH if (value := getattr(objective.decoding, name, None)) is not None}
    return outputs, test.references, used | {"decode_s": round(time.perf_counter() - start, 2)}
