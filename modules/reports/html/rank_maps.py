"""The ranks that AdaLoRA leaves, layer by layer, as heat maps."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from modules.reports.html.charts import Chart, base, tooltip
from modules.reports.html.marks import Marked
from modules.reports.tables.section import Section
from variants.sites.ranges import after_block, block_number

RANK = "rank/"
"""How the names of a run's ranks begin, before the path of the adapted map."""


def layer_and_role(path: str) -> tuple[str, str]:
    """(number of the layer, role in it) of a map's path: `encoder.layer.2.attention.self.query` is (2,
    attention.query)."""
    layer, rest = block_number(path), after_block(path)
    words = [word for word in rest.split(".") if word not in ("self", "attn", "mlp")]
    return "" if layer is None else str(layer), ".".join(words[-2:])


def rank_maps(section: Section, marked: list[Marked]) -> Iterator[Chart]:
    """A heat map for each row and task whose runs have ranks: the mean over the seeds of the rank that is left."""
    for number, one in enumerate(marked):
        for task, runs in one.row.by_task.items():
            ranks: dict[str, list[float]] = {}
            for run in runs:
                for name, rank in run.variant_metrics.items():
                    if name.startswith(RANK) and rank is not None:
                        ranks.setdefault(name.removeprefix(RANK), []).append(rank)
            if not ranks:
                continue
            values = []
            for path, found in ranks.items():
                layer, role = layer_and_role(path)
                rank = round(statistics.mean(found), 2)
                values.append({"layer": layer, "role": role, "rank": rank, "path": path, "row": one.name})
            layers = sorted({value["layer"] for value in values}, key=lambda layer: int(layer or 0))
            colour = {"field": "rank", "type": "quantitative", "scale": {"scheme": "blues", "zero": True}}
            spec = base(values, 60 + 22 * len({value["role"] for value in values})) | {
                "mark": "rect",
                "encoding": {
                    "x": {"field": "layer", "type": "ordinal", "sort": layers, "axis": {"labelAngle": 0}},
                    "y": {"field": "role", "type": "nominal", "title": None, "axis": {"labelLimit": 160}},
                    "color": colour,
                    "tooltip": tooltip("path", "rank"),
                },
            }
            title = f"{one.name}, {section.benchmark.tasks[task].title}"
            words = (
                "How many of the singular directions that AdaLoRA starts with are left at the end, mean over "
                f"{len(runs)} seed{'s' * (len(runs) > 1)}."
            )
            yield Chart(f"ranks-{number + 1}-{task}", title, words, spec)
