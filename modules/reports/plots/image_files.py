"""matplotlib's figures as PNG and SVG files. It is an optional extra, imported when a figure is drawn.

The same figure gives the same bytes (with one version of matplotlib): no dates, no versions, no random ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from variants.atomic import write_atomic
from variants.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
"""Of every picture, in this order."""

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.dpi": 110,
    "svg.fonttype": "none",
    "svg.hashsalt": "lora-variants",  # element ids that do not change from call to call
}


def require_matplotlib() -> None:
    """Raise UserError where matplotlib is not installed; to be called before a long measurement."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("plots need matplotlib: pip install 'lora-variants[plots]', or give --no_plots") from None


@contextmanager
def style(**changes: Any) -> Iterator[None]:
    """``with style():`` figures have the project's style.

    Args:
        changes: of matplotlib's settings, such as ``**{"font.size": 9}``.

    Raises:
        UserError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib

    matplotlib.use("agg")
    with matplotlib.rc_context(STYLE | changes):
        yield


def encoded(figure: Figure, description: str | None = None, **options: Any) -> list[bytes]:
    """The figure's bytes in each of FORMATS.

    Args:
        description: for the files' metadata.
        options: of `Figure.savefig`.
    """
    contents = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        if description is not None:
            metadata = metadata | {"Description": description}
        out = io.BytesIO()
        figure.savefig(out, format=kind, metadata=metadata, **options)
        figure.set_layout_engine("none")  # laid out once
        contents.append(out.getvalue())
    return contents


@contextmanager
def saved_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """``with saved_figure(path, 6, 4) as figure:`` an empty figure of that size in inches, written as ``path``.png and
    ``path``.svg at the end of the block.

    Raises:
        UserError: matplotlib is not installed, or the disk is full.
    """
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for kind, content in zip(FORMATS, encoded(figure), strict=True):
            write_atomic(path.with_name(f"{path.name}.{kind}"), content)
