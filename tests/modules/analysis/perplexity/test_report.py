"""The command: what is measured, what is in the file already, table and picture."""

from __future__ import annotations

import json
import math

import pytest
from scipy import stats

from modules.analysis.perplexity.report import compared, markdown, perplexity, published
from modules.analysis.perplexity.rounding import WAYS
from paper_repro.perplexity import main, parse
from variants.errors import UserError

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -e '.[quant]'")


def test_the_command_measures_what_is_missing(tmp_path, capsys) -> None:
    words = ["--model", "embedded-gpt2", "--rows", "6", "--out", str(tmp_path)]
    assert main([*words, "--quantise", "bf16,nf4", "--no_plots"]) == 0
    (file,) = tmp_path.glob("*.json")
    first = json.loads(file.read_text())["models"]["embedded-gpt2"]
    capsys.readouterr()
    assert main([*words, "--quantise", "bf16,nf4,int4"]) == 0
    assert "1 of 3 to measure" in capsys.readouterr().out
    again = json.loads(file.read_text())["models"]["embedded-gpt2"]
    assert again["ways"]["nf4"] == first["ways"]["nf4"] and list(again["ways"]) == ["bf16", "nf4", "int4"]
    text = file.with_suffix(".md").read_text()
    assert "| int4 | 4.5 |" in text and "| NFloat4 + DQ | 27.41 |" in text and "6 of them spread evenly" in text
    assert file.with_suffix(".png").stat().st_size > 1000 and file.with_suffix(".svg").is_file()
    assert 2.5 < perplexity(again["ways"]["nf4"]) < 3.5, "the model knows this text"


def test_other_weights_do_not_join_a_file(tmp_path) -> None:
    words = ["--model", "embedded-gpt2", "--rows", "2", "--quantise", "bf16", "--no_plots", "--out", str(tmp_path)]
    assert main(words) == 0
    (file,) = tmp_path.glob("*.json")
    content = json.loads(file.read_text())
    content["models"]["embedded-gpt2"]["hash"] = "another"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has embedded-gpt2 with other weights"):
        main(words)
    file.write_text("[]")
    with pytest.raises(UserError, match="is not a result file of this command"):
        main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quantise", "nf3"], "--quantise: unknown 'nf3'; there are bf16, fp16, int8"),
        (["--rows", "0"], "--rows must be at least 1"),
        (["--model", "embedded-gpt2", "--length", "300"], "--length 300: embedded-gpt2 has 256 positions"),
    ],
)
def test_mistakes(tmp_path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([*words, "--no_plots", "--out", str(tmp_path)])


def test_shares_are_paired_by_row() -> None:
    base, other = [2.0, 3.0, 2.5, 4.0], [2.1, 3.05, 2.52, 4.2]
    found = compared({"bf16": {"losses": base}, "nf4": {"losses": other}}, "nf4")
    t = stats.ttest_rel(other, base)
    interval = t.confidence_interval(0.95)
    assert math.log(found.ratio) == pytest.approx(sum(b - a for a, b in zip(base, other, strict=True)) / 4)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert compared({"bf16": {"losses": base}}, "bf16") is None and compared({"nf4": {"losses": other}}, "nf4") is None


def test_models_of_one_text_have_a_mean() -> None:
    def model(*losses: float) -> dict:
        about = {"bits": 16.0, "relative_error": 0.0, "environment": {"device": "a CPU"}}
        ways = {name: about | {"losses": [loss] * 2} for name, loss in zip(("bf16", "nf4-dq"), losses, strict=True)}
        return {"parameters": 1e6, "tokens": 20, "ways": ways}

    result = {"text": "novels", "length": 10, "rows": None, "dtype": "float32"}
    result["models"] = {"a": model(0.0, math.log(2)), "b": model(math.log(3), math.log(4))}
    text = markdown(result)
    assert "**Mean of the 2 models**" in text and "| bf16 | 2.000 |" in text and "| nf4-dq | 3.000 |" in text
    assert "Mean of" not in markdown(result | {"text": "embedded"}), "each reads a text of its own there"


def test_published_rows_have_a_way_here() -> None:
    assert {row.options["quantise"] for row in published()} <= set(WAYS) and parse([]).quantise == tuple(WAYS)
