"""Rows of a text, losses of a model, and what is rounded."""

from __future__ import annotations

import gzip

import pytest
import torch

from modules.analysis.perplexity.measure import measured, row_losses, rows_of, stream
from modules.analysis.perplexity.rounding import rounded
from modules.pretraining.small_llama import letters
from tests.support.models import MODELS
from variants.errors import UserError
from variants.quantisation import dequantise, quantise

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -e '.[quant]'")


def test_each_token_is_predicted_once() -> None:
    rows = rows_of(torch.arange(34), 8, None)
    assert rows.tolist() == [list(range(k, k + 9)) for k in (0, 8, 16, 24)]
    assert rows_of(torch.arange(81), 8, 4)[:, 0].tolist() == [0, 16, 40, 56], "spread over the text"
    with pytest.raises(UserError, match="--length 8: the text has 8 tokens"):
        rows_of(torch.arange(8), 8, None)


def test_losses_are_those_that_transformers_computes() -> None:
    model = MODELS["llama"]().eval()
    rows = torch.randint(3, 90, (3, 13), generator=torch.Generator().manual_seed(0))
    expected = [model(input_ids=row[None], labels=row[None]).loss.item() for row in rows]
    assert row_losses(model, rows) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_it_is_the_model_that_would_be_trained_on(name: str) -> None:
    """The losses of `quantise` with the same scheme, one after another from the same weights."""
    rows = torch.randint(3, 90, (4, 17), generator=torch.Generator().manual_seed(0))
    found = dict(measured(MODELS[name]().eval(), rows, ["int4", "fp4", "nf4-dq", "bf16"], torch.float32, 3))
    for scheme in ("fp4", "nf4-dq"):
        model = MODELS[name]().eval()
        note = quantise(model, scheme)
        dequantise(model)
        assert found[scheme]["losses"] == pytest.approx(row_losses(model, rows), rel=1e-5)
        assert found[scheme]["relative_error"] == pytest.approx(note.relative_error, rel=1e-3)
    assert found["bf16"]["relative_error"] < 0.003 < found["int4"]["relative_error"]


def test_all_else_stays_as_it_is() -> None:
    model = MODELS["gpt2"]().eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    list(measured(model, torch.randint(3, 90, (1, 9)), ["int4"], torch.float32, 1))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(name.endswith(".weight") and ".h." in name and "ln_" not in name for name in changed)
    for name in changed:  # GPT-2's maps are transposed: blocks run along a row of (out, in)
        values = rounded(before[name].t().contiguous(), "int4").t()
        assert torch.equal(dict(model.named_parameters())[name], values)


def test_a_text_is_a_file_or_what_the_small_models_know(tmp_path) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(b"a b\n"))
    tokenizer = letters()
    assert tokenizer.convert_ids_to_tokens(stream("any", str(path), tokenizer)) == list("a b\n")
    embedded = stream("embedded-llama", "embedded", tokenizer)
    assert len(embedded) > 10_000 and tokenizer.unk_token_id not in embedded
    with pytest.raises(UserError, match="any needs a text file"):
        stream("any", "embedded", tokenizer)
    with pytest.raises(UserError, match="--text: .*absent cannot be read"):
        stream("any", str(tmp_path / "absent"), tokenizer)
