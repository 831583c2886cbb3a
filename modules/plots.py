"""Figures as PNG and SVG. matplotlib is an optional extra, and is imported when a figure is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.atomic import write_atomic
from modules.errors import UserError

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.dpi": 110,
    "svg.fonttype": "none",
    "svg.hashsalt": "lora-variants",  # element ids that do not change from call to call
}


def require() -> None:
    """Raise UserError where matplotlib is not installed: to be called before anything long."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError('figures need matplotlib: pip install "lora-variants[plots]", or give --no_plots') from None


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator:
    """``with figure(path, 6, 4) as drawing:`` a matplotlib Figure (inches), then written to ``path`` .png and .svg.

    The same figure gives the same bytes (with one version of matplotlib): no dates, no random ids.
    """
    require()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            content = io.BytesIO()
            drawing.savefig(content, format=kind, metadata=metadata)
            drawing.set_layout_engine("none")  # laid out once
            write_atomic(path.with_name(f"{path.name}.{kind}"), content.getvalue())
