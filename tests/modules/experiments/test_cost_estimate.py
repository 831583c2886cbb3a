"""Hours are estimated from steps and lengths."""

import json

import pytest

from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.benchmarks.instruct import INSTRUCT
from modules.experiments import cost_estimate
from modules.experiments.command import main
from modules.experiments.cost_estimate import WIDTHS, _line, cost_lines, hours_text, width
from modules.experiments.published_runs import planned_runs
from tests.support.paper_rows import wishes


def test_hours_come_from_steps_and_lengths():
    (job,) = [j for j in planned_runs(wishes(words="roberta-base lora")[0][0]) if (j.recipe.task, j.seed) == ("rte", 0)]
    assert width(job) == WIDTHS["rte"][32] and set(WIDTHS) == {*GLUE.tasks, *E2E.tasks}
    assert _line([(100, 1.0), (300, 2.0)], 500) == pytest.approx(3.0)
    assert _line([(100, 2.0), (300, 1.5)], 600) == pytest.approx(3.0)  # noise: a larger batch never costs less
    assert [hours_text(h) for h in (0.5, 2.345, 1234.5)] == ["30 min", "2.3 h", "1,234 h"]
    assert cost_lines([]) == ["nothing is missing"]


def test_an_estimate_is_of_the_right_size(capsys):
    """Measured for the embedded model; the reference runs took 9 minutes on two cores, two at once."""
    assert main(["--plan", "--preset", "embedded", "--tasks", "rte", "--results_dir", "nowhere"], GLUE) == 0
    out = capsys.readouterr().out
    assert (
        "--preset embedded --results_dir nowhere --tasks rte --seeds 0" in out and "1 run, 252 optimizer steps" in out
    )
    assert " min on one such device" in out


def test_a_model_that_would_fill_the_memory_is_not_built(monkeypatch, tmp_path, capsys):
    """LLaMA-7B has 6.74 billion parameters: 27 GB in fp32."""
    row = {
        "instruction": "Is it?\n\nAnswer format: true/false",
        "output": "the correct answer is true",
        "answer": "true",
    }
    (tmp_path / "boolq").mkdir()
    rows = [row | {"instruction": f"{number}: {row['instruction']}"} for number in range(9)]
    (tmp_path / "boolq" / "train.json").write_text(json.dumps(rows))
    (tmp_path / "boolq" / "test.json").write_text(json.dumps([row]))
    monkeypatch.setattr(cost_estimate, "memory", lambda: 17 * 10**9)
    words = ["--plan", "--preset", "paper", "--tasks", "commonsense", "--data_dir", str(tmp_path)]
    assert main([*words, "--results_dir", "nowhere"], INSTRUCT) == 0
    out = capsys.readouterr().out
    assert "hours left out: its weights take 27 GB, more than half of this machine's 17 GB" in out
