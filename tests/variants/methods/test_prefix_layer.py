"""Prefix-layer tuning against the LoRA paper's activations on a block written out."""

from __future__ import annotations

import pytest

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import (
    P,
    behind_the_first,
    close,
    gpt2_reference,
    linear,
    logits,
    norm,
    roberta_reference,
    trained,
)
from variants import PrefixLayer


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_prefix_layer_is_the_lora_papers_activations(name) -> None:
    """At each block the prefix gives the keys and values of trained activations; what it computes itself is lost."""
    model, batch = MODELS[name](), inputs(name)
    t, w = trained(model, PrefixLayer(p=P)).adapter.tensors(), model.state_dict()
    if name == "roberta":

        def part(which):
            at = "roberta.encoder.layer"
            return lambda i: linear(w, f"{at}.{i}.attention.self.{which}", t[f"{at}.{i}.prefix"])

        expected = roberta_reference(
            model,
            batch,
            keys=part("key"),
            values=part("value"),
            positions=behind_the_first(batch["input_ids"].shape[1]),
        )
    else:

        def part(which):
            def rows(i):
                at = f"transformer.h.{i}"
                return linear(w, f"{at}.attn.c_attn", norm(w, f"{at}.ln_1", t[f"{at}.prefix"], 1e-5)).chunk(3, -1)[
                    which
                ]

            return rows

        expected = gpt2_reference(model, batch, keys=part(1), values=part(2), shift_by=P)
    assert close(logits(model, batch), expected)
