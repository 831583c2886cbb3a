"""A figure of all layers over the epochs as one picture, and as a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.runs.labels import natural
from variants.atomic import write_atomic

TITLES = {
    "update_norm": "‖ΔW‖ / ‖W‖ by layer and epoch",
    "grad_norm": "gradient norm of the last step, by layer and epoch",
    "rank": "rank by layer and epoch",
}
"""By figure; others are called by their names."""
COLUMNS = ("epoch", "place", "value")


class LayerHistory:
    """Values of one figure by place and epoch.

    Args:
        figure: its name, such as rank.
    """

    def __init__(self, figure: str) -> None:
        self.figure = figure
        self.epochs: list[int] = []
        self.values: list[Mapping[str, float]] = []

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """The values of an epoch; ``all`` is no place."""
        self.epochs.append(epoch)
        self.values.append({place: value for place, value in values.items() if place != "all"})

    @property
    def places(self) -> list[str]:
        """Every place, the lowest layer first."""
        return sorted({place for values in self.values for place in values}, key=natural)

    def rows(self) -> list[Sequence[Any]]:
        """(epoch, place, value) of all."""
        return [
            (epoch, place, values[place])
            for epoch, values in zip(self.epochs, self.values, strict=True)
            for place in self.places
            if place in values
        ]

    def draw(self, file: Path) -> bool:
        """A heat map, places from the bottom up, as a PNG file; False where matplotlib is not installed."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return False
        places = self.places
        grid = [[values.get(place, float("nan")) for values in self.values] for place in places]
        figure = Figure(figsize=(2.6 + min(10.0, 0.35 * len(self.epochs)), 1.2 + 0.17 * len(places)), dpi=110)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        image = axes.imshow(grid, aspect="auto", origin="lower", interpolation="nearest", cmap="viridis")
        axes.set_yticks(range(len(places)), places, fontsize=7)
        every = max(1, len(self.epochs) // 10)
        axes.set_xticks(range(0, len(self.epochs), every), self.epochs[::every], fontsize=7)
        axes.set_xlabel("epoch", fontsize=8)
        axes.set_title(TITLES.get(self.figure, f"{self.figure} by layer and epoch"), fontsize=8)
        figure.colorbar(image, ax=axes).ax.tick_params(labelsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight")
        write_atomic(file, buffer.getvalue())
        return True
