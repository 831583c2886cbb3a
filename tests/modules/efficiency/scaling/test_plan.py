"""The plan: what it fits, what it predicts, and where it says that doubling stops paying."""

import pytest

from modules.efficiency.scaling.plan import AllReduce, Network, fitted, imbalance, plan
from modules.efficiency.scaling.workloads import workload

BASE, GPT2 = workload("roberta-base"), workload("gpt2-medium")
LINE = AllReduce(2, latency_ms=0.02, ms_per_byte=1e-8)
NETWORK = Network(gbps=80, us=10)  # 1e-7 ms for each byte


def record_of(**runs):
    found = {name[1:]: {"rounds_ms": list(rounds)} for name, rounds in runs.items()}
    return {"runs": found, "peft": {}, "bytes": 1_000_000}


def test_a_line_through_measured_times_gives_latency_and_bandwidth():
    sizes = (500_000, 1_000_000, 3_000_000, 10_000_000)
    line = AllReduce.fit(2, sizes, [0.02 + size * 1e-8 for size in sizes])
    assert line.latency_ms == pytest.approx(0.02) and line.ms_per_byte == pytest.approx(1e-8)
    assert line.gbytes_per_s == pytest.approx(100)
    assert AllReduce.fit(2, (1, 2, 3), (1e-9, 1.0, 2.0)).latency_ms >= 0


def test_more_gpus_cost_latency_and_bytes_of_their_host_and_of_the_network():
    assert LINE.ms(1_000_000, 1, NETWORK) == 0
    assert LINE.ms(1_000_000, 2, NETWORK) == pytest.approx(0.02 + 0.01)
    assert LINE.ms(1_000_000, 8, NETWORK) == pytest.approx(3 * 0.02 + 1.75 * 0.01)
    between = 2 * 3 * 0.01 + 2 * 7 / 8 * 1_000_000 * 1e-7
    assert LINE.ms(1_000_000, 64, NETWORK) == pytest.approx(3 * 0.02 + 1.75 * 0.01 + between)


def test_a_step_is_compute_wait_all_reduce_and_what_they_leave_unexplained():
    record = record_of(_1x32=[4.0, 4.0], _1x4=[1.2], _2x32=[4.5], _2x16=[2.5])
    found = plan(BASE, record, LINE, NETWORK)
    assert found.weak[1].ms == 4.0 and found.strong[2].compute == pytest.approx(1.2 + 12 * 0.1)
    assert found.weak[2].ms == pytest.approx(4.5) and found.weak[2].measured == 4.5  # the rest is what makes it so
    assert found.weak[8].rest == pytest.approx(found.weak[2].rest) and found.weak[1].rest == 0
    assert found.weak[64].all_reduce == pytest.approx(LINE.ms(1_000_000, 64, NETWORK))
    assert max(found.strong) == 32 and found.strong[32].rows == 1  # 64 GPUs would have half a row each


def test_strong_scaling_stops_paying_where_doubling_gains_less_than_a_tenth():
    flat = plan(BASE, record_of(_1x32=[4.0], _1x4=[3.9]), LINE, NETWORK)
    assert flat.stops() == 1
    steep = plan(BASE, record_of(_1x32=[32.0], _1x4=[4.0]), AllReduce(2, 1e-4, 1e-12), NETWORK)
    assert steep.stops() is None
    between = plan(BASE, record_of(_1x32=[10.0], _1x4=[3.0]), AllReduce(2, 0.01, 1e-9), NETWORK)
    assert between.stops() == 16  # 10, 6, 4, 3, 2.5, 2.25 ms and the all-reduce


def test_without_several_gpus_or_few_rows_it_leaves_out_what_it_cannot_say():
    alone = plan(BASE, record_of(_1x32=[4.0], _1x4=[1.2]), None, NETWORK)
    assert alone.weak[64].all_reduce == alone.weak[64].rest == 0
    assert not plan(BASE, record_of(_1x32=[4.0], _2x32=[4.1]), LINE, NETWORK).strong  # as after --quick
    assert plan(BASE, record_of(_2x32=[4.1]), LINE, NETWORK) is None
    assert plan(BASE, record_of(_1x32=[None]), LINE, NETWORK) is None  # it failed


def test_ranks_wait_for_the_one_with_the_widest_batch():
    assert imbalance(GPT2, 1, 8) == 0
    assert 0 < imbalance(GPT2, 2, 8) < imbalance(GPT2, 8, 1)  # padded: the longest row alone decides
    assert imbalance(BASE, 2, 32) < 0.02  # packed, and rows are dealt by their lengths


def test_the_all_reduce_of_the_most_gpus_is_taken():
    times = {"2": {"bytes": [1, 2], "ms": [1.0, 2.0]}, "4": {"bytes": [1, 2], "ms": [2.0, 3.0]}, "8": {"failed": "x"}}
    assert fitted({"all_reduce": times}).gpus == 4
    assert fitted({}) is None
