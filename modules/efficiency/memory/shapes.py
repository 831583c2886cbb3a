"""Published sizes of models, and figures of QLoRA's paper (Dettmers et al. 2023, arXiv 2305.14314)."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """A model's sizes.

    Attributes:
        title: for the table.
        config: transformers' configuration.
        method: options of the LoRA that trains on it.
        paper: what the paper says of it, "" where nothing.
    """

    title: str
    config: dict[str, Any]
    method: dict[str, Any]
    paper: str = ""


def _llama(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """Touvron et al. 2023 (arXiv 2302.13971), Table 2."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return {"model_type": "llama", **sizes, "num_attention_heads": heads}


_QLORA = {"r": 64, "alpha": 16.0, "target": "all-linear"}
"""All linear maps, r 64, alpha 16: the paper's Guanaco (its code's README)."""
_GPT3 = {"n_embd": 12288, "n_layer": 96, "n_head": 96, "vocab_size": 50257, "n_positions": 2048}
"""Brown et al. 2020 (arXiv 2005.14165), Table 2.1."""
_TINY = _llama(64, 160, 2, 4) | {"vocab_size": 256}
SHAPES: dict[str, Shape] = {
    "tiny": Shape("a LLaMA of 0.1M parameters", _TINY, _QLORA | {"r": 8}),
    "7b": Shape("LLaMA 7B", _llama(4096, 11008, 32, 32), _QLORA, "base 5,048 MB; the model file 6 GB"),
    "13b": Shape("LLaMA 13B", _llama(5120, 13824, 40, 40), _QLORA, "the model file 10 GB"),
    "33b": Shape("LLaMA 33B", _llama(6656, 17920, 60, 52), _QLORA, "the model file 21 GB"),
    "65b": Shape(
        "LLaMA 65B",
        _llama(8192, 22016, 80, 64),
        _QLORA,
        "below 48 GB; the model file 41 GB; 16-bit full fine-tuning above 780 GB",
    ),
    "175b": Shape(
        "GPT-3 175B",
        {"model_type": "gpt2", **_GPT3},
        {"r": 4, "alpha": 4.0, "target": "attn-qv"},
        "LoRA r 4 on q and v: 350 GB of GPU memory in 16 bits (Hu et al. 2021, section 4.2)",
    ),
}
"""By name on the command line."""
