"""Declared low-rank updates of convolutions: images stay images, and nothing is laid out in rows."""

from __future__ import annotations

from torch import Tensor

from variants.layer import AdapterLayer, LowRank


def convolved(layer: AdapterLayer, x: Tensor, y: Tensor) -> Tensor:
    """The output of a layer that adds its low-rank update to a whole convolution: A as a kernel of its size, then B as
    one of one pixel.

    Args:
        x: images (B, C, ...).
        y: what the convolution makes of them, (B, O, ...).
    """
    window = layer.site.window
    if x.ndim == 1 + len(window.kernel):
        return convolved(layer, x[None], y[None])[0]
    update = layer.low_rank()
    z = window.convolve(layer.dropout(x) if layer.drops else x, update.A)
    B = _weighted(update)
    point = window._replace(
        channels=B.shape[1], **{name: (size,) * len(window.kernel) for name, size in _POINT.items()}
    )
    return y + point.convolve(z, B.to(z.dtype)).to(y.dtype)


_POINT = {"kernel": 1, "stride": 1, "padding": 0, "dilation": 1}


def _weighted(update: LowRank) -> Tensor:
    """scale · diag(outer) · B · diag(inner), (out_features, r): all of the update behind A."""
    B = update.B if update.outer is None else update.outer[:, None] * update.B
    if update.inner is not None:
        B = B @ update.inner if update.inner.ndim == 2 else B * update.inner
    return update.scale * B
