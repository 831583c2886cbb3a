"""What two GPUs must reach, and whether they do."""

import pytest

from modules.efficiency import thresholds
from tests.support.scaling import recorded


def rows_of(scaling):
    return {(row["bar"], row["what"]): row for row in thresholds.rows({"scaling": scaling})}


def test_every_bar_of_two_gpus_is_measured_within_its_round():
    rows = rows_of(recorded())
    weak = rows["throughput, roberta-base, MRPC, 32 rows for each GPU", "2 GPUs / 1"]
    assert weak["measured"][1] == pytest.approx(2 * (4.0 / 4.2 + 8.0 / 8.2) / 2) and weak["least"] and weak["met"]
    strong = rows["step, roberta-base, 32 rows in all", "2 GPUs / 1"]
    assert strong["measured"][1] == pytest.approx((0.75 + 0.6) / 2) and strong["met"]
    peft = rows["step on 2 GPUs, roberta-base, MRPC, 32 rows for each GPU", "ours / PEFT graphs bf16"]
    assert peft["measured"][1] == pytest.approx(6.2 / 9.0) and not peft["met"]  # against the best way, not the first


def test_throughput_below_the_bar_is_not_met():
    scaling = recorded()
    scaling["workloads"]["roberta-base"]["runs"]["2x32"]["rounds_ms"] = [5.0, 10.0]
    (row,) = [row for row in thresholds.rows({"scaling": scaling}) if row.get("least")]
    assert row["measured"][1] == pytest.approx(1.6) and not row["met"]


def test_failed_rounds_and_processes_on_a_cpu_claim_nothing():
    scaling = recorded()
    scaling["workloads"]["roberta-base"]["runs"]["2x32"]["rounds_ms"] = [None, None]
    assert [row["bar"] for row in thresholds.rows({"scaling": scaling})] == ["step, roberta-base, 32 rows in all"]
    assert not thresholds.rows({"scaling": recorded() | {"device": "cpu"}})


def test_a_shared_model_must_spare_memory():
    (row,) = thresholds.rows({"scaling": {"sharded": {"1": {"peak_mb": 100}, "2": {"peak_mb": 59}}}})
    assert row["measured"][1] == pytest.approx(0.59) and row["met"]
