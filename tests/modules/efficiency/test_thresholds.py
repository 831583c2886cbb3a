"""The bars that the benchmark must meet: ratios within a round, and what each is compared with."""

import pytest

from modules.efficiency import thresholds


def scenario_of(**rounds):
    return {"title": "t", "ways": {n.replace("_", " "): {"rounds_ms": r, "step_ms": r[0]} for n, r in rounds.items()}}


def test_ratios_are_taken_within_a_round():
    s = scenario_of(ours_lora_graphs=[1.0, 10.0, 100.0], limit_graphs=[1.0, 8.0, 50.0])
    assert thresholds.ratio(s, "ours lora graphs", "limit graphs") == (1.125, 1.25, 1.625)
    assert thresholds.ratio(s, "ours lora graphs", "limit eager") is None


def test_bars_compare_with_the_better_of_pefts_and_say_what_is_met():
    s = scenario_of(ours_lora_trained=[1.0] * 3, ours_lora_graphs=[9.0] * 3, limit_graphs=[0.9] * 3)
    s["ways"] |= scenario_of(peft_lora_eager=[8.0] * 3)["ways"]
    s["ways"]["peft-bf16 lora eager"] = {"rounds_ms": [4.0] * 3, "step_ms": 4.0}
    rows = {row["what"]: row for row in thresholds.rows({"scenarios": {"base": s}})}
    assert rows["ours lora trained / limit graphs"]["met"]
    against = rows["ours lora trained / peft-bf16 lora eager"]
    assert against["measured"] == (0.25, 0.25, 0.25) and against["limit"] == 0.2 and not against["met"]
    assert len(rows) == 2  # nothing is said of what was not measured


def test_a_job_counts_its_repeats_in_pairs():
    job = {"title": "j", "compared": ["a", "b"], "seconds": {"a": [1.0, 2.0], "b": [2.0, 5.0]}, "limit": 0.5}
    (row,) = thresholds.rows({"jobs": [job]})
    assert row["measured"][1] == pytest.approx(0.45) and row["met"]
    assert not thresholds.rows({"jobs": [job | {"limit": None}]})
