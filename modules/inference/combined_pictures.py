"""Pictures by several adapters of image models: each alone and all together, at several strengths, as one grid.

    adapters: {style: results/runs/0123456789ab, character: results/runs/ba9876543210}
    prompts: ["sks, two ohwx at the top on black"]
    strengths: [0.5, 1.0]
    out: combined.png

A column is what one line of the printed legend says, a row a prompt. Together, the updates are added, each times its
strength: LoRA's exactly, those of other methods by the nearest update of ``rank``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.backbones.diffusion.families import load_image_model
from modules.backbones.loading import expect_weights
from modules.benchmarks.dreambooth.grids import write_grid
from modules.benchmarks.dreambooth.painting import Painter
from modules.documents import read_yaml
from modules.inference.trained import Trained, trained
from variants.adapters.adapted_model import AdaptedModel
from variants.errors import UserError
from variants.formats.native import load
from variants.methods.lora import LoRA
from variants.schema import built


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The content of a file for ``--combine``.

    Attributes:
        adapters: the folders of runs or of their adapters, or ids of runs, by a name for each.
        prompts: a row of the grid each.
        strengths: by which each update is multiplied.
        out: the PNG.
        which: of a run's adapters, that of its "best" or of its "last" epoch.
        rank: of sums of what is no LoRA.
        model: the base model, where it has been moved.
        paint_steps, guidance: of the sampler; by default as the first run painted.
        results_dir: where ids are looked up.
    """

    adapters: dict[str, str]
    prompts: tuple[str, ...]
    strengths: tuple[float, ...] = (0.5, 1.0)
    out: str = "combined.png"
    which: str = "last"
    rank: int = 16
    model: str | None = None
    paint_steps: int | None = None
    guidance: float | None = None
    results_dir: str = "results"


def combined(file: str) -> int:
    """Paint the grid that a YAML file describes, and say what its columns are. Returns the exit code.

    Raises:
        UserError: the file, a run, or the base model is not as it must be.
    """
    wanted = built(Combination, read_yaml(Path(file).expanduser()), file)
    if not wanted.adapters or not wanted.prompts or not wanted.strengths:
        raise UserError(f"{file}: adapters, prompts and strengths must each name at least one")
    runs = {name: trained(run, wanted.which, wanted.results_dir) for name, run in wanted.adapters.items()}
    first = next(iter(runs.values()))
    for name, run in runs.items():
        if run.benchmark != "dreambooth":
            raise UserError(f"{file}: {name} is a run of {run.benchmark}, and paints nothing")
        if run.backbone["hash"] != first.backbone["hash"]:
            raise UserError(f"{file}: {name} was trained on another base model than {next(iter(runs))}")
    adapted, painter = _loaded(runs, first, wanted)
    columns = [("base", painter.painted(wanted.prompts)[0])]
    for title, weights in together(list(runs), wanted.strengths):
        error = acting(adapted, weights, wanted.rank)
        inexact = f" (relative error {error:.1e})" if error else ""
        columns.append((title + inexact, painter.painted(wanted.prompts)[0]))
    pictures = np.stack([pixels for _, pixels in columns], 1)  # (prompts, columns, H, H, 3)
    write_grid(Path(wanted.out).expanduser(), list(pictures.reshape(-1, *pictures.shape[2:])), len(columns))
    for number, (title, _) in enumerate(columns, 1):
        print(f"column {number}: {title}")
    print(f"written: {wanted.out}")
    return 0


def together(names: list[str], strengths: tuple[float, ...]) -> list[tuple[str, dict[str, float]]]:
    """What is painted: (title, weights) of each adapter alone and, of several, of all, at each strength."""
    every = [[name] for name in names] + ([names] if len(names) > 1 else [])
    return [
        (" + ".join(f"{strength:g} {name}" for name in some), dict.fromkeys(some, strength))
        for some in every
        for strength in strengths
    ]


def acting(adapted: AdaptedModel, weights: Mapping[str, float], rank: int) -> float:
    """Have a weighted sum of adapters act on the model; the relative error of the sum, 0 where it is exact."""
    if "sum" in adapted.adapters:
        adapted.delete("sum")
    exact = all(type(adapted.adapters[name].variant) is LoRA for name in weights)
    error = adapted.combine(weights, "sum", None if exact else rank)
    adapted.enable()
    return error


def _loaded(runs: Mapping[str, Trained], first: Trained, wanted: Combination) -> tuple[AdaptedModel, Painter]:
    """The model with every adapter on it, none acting, and what paints with it."""
    spec = wanted.model or str(first.backbone.get("spec") or first.backbone["name"])
    name, _, folder = first.of.backbone(spec)
    expect_weights(folder, spec, first.backbone["hash"])
    model = load_image_model(folder, name)
    if size := first.inputs.get("resolution"):
        model.resize(size)
    model.max_tokens = first.inputs["max_length"]
    adapted = None
    for key, run in runs.items():
        adapted = load(adapted or model.denoiser, run.folder, name=key)
    adapted.deactivate()
    model.denoiser.eval()
    how = (wanted.paint_steps or first.inputs["paint_steps"], wanted.guidance or first.inputs["guidance"])
    return adapted, Painter(model, first.backbone["hash"], *how)
