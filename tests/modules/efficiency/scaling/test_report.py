"""Tables and plot of a recorded benchmark."""

import pytest

from modules.efficiency.report import markdown, plot
from tests.support.scaling import recorded


def result_of(scaling):
    environment = {"device": "GPU", "devices": 2, "torch": "2", "transformers": "5"}
    return {"environment": environment, "peft": "0.21", "scaling": scaling}


def test_the_table_has_what_was_measured_and_says_what_is_planned():
    text = markdown(result_of(recorded()))
    assert text.startswith("# Scaling: 2 × GPU\n")
    assert "| throughput, roberta-base, MRPC, 32 rows for each GPU | 2 GPUs / 1 | ≥ 1.85 | 1.928" in text
    assert "| ours | 2 | 32 | 6.20 [5.20, 7.20] | weak: throughput 1.93" in text
    assert "strong: step 0.68" in text
    assert "| PEFT, compiled bf16 | 2 | 32 | failed: no a / b |" in text
    assert "**A model, no measurement.**" in text and "Strong scaling pays up to" in text
    planned = text.partition("## Planned on paper")[2]
    assert [line.split("|")[1].strip() for line in planned.splitlines() if line.startswith("| ")][1:] == [
        "1", "2", "4", "8", "16", "32", "64",
    ]  # fmt: skip


def test_a_failed_run_is_a_row_with_its_reason():
    scaling = recorded()
    scaling["workloads"]["roberta-base"]["runs"]["2x32"] = {"gpus": 2, "rows": 32, "rounds_ms": [None], "failed": "why"}
    assert "| ours | 2 | 32 | failed: why |" in markdown(result_of(scaling))


def test_one_gpu_and_a_cpu_are_said_to_be_so():
    assert "There was one GPU" in markdown(result_of(recorded() | {"gpus": 1, "all_reduce": {}}))
    assert "nothing of scaling" in markdown(result_of(recorded() | {"device": "cpu"}))


def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot(result_of(recorded()), tmp_path / "it")
    assert (tmp_path / "it.png").stat().st_size > 5000 and "PEFT graphs bf16" in (tmp_path / "it.svg").read_text()
