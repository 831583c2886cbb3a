"""(IA)³ against PEFT, and which maps are scaled on their input."""

import peft

from tests.support.models import MODELS
from tests.support.parity import adapter_size, compare, pair
from variants import IA3, attach


def test_equals_peft() -> None:
    maps = ["key", "value", "output.dense"]
    found = compare(
        pair(
            "roberta",
            IA3(target=",".join(maps), inputs="dense"),
            peft.IA3Config(target_modules=maps, feedforward_modules=["output.dense"]),
        )
    )
    assert max(found.values()) < 1e-5, found


def test_what_goes_into_the_feed_forward_output_is_scaled() -> None:
    for name in ("roberta", "gpt2", "llama"):
        layers = attach(MODELS[name](), IA3()).layers
        assert {layer.on_input for layer in layers if layer.site.role == "down"} == {True}
        assert {layer.on_input for layer in layers if layer.site.role in "kv"} == {False}
        assert len(layers) == 6


def test_size() -> None:
    """d for keys, d for values, f for the feed-forward part, in each block."""
    assert adapter_size("roberta-base", IA3()) == 12 * (768 + 768 + 3072)
