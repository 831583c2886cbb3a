"""A session: the order of its measurements, and what it keeps of those that fail."""

import pytest
import torch

from modules.efficiency.scaling import measure
from paper_repro.efficiency import parse
from variants.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch):
    """What was run: commands as ``1x32``, jobs by their names."""
    found = []

    def measure_command(words, cache, limit_s):
        def flag(name):
            return int(words[words.index(f"--{name}") + 1])

        gpus = flag("trainer.devices")
        found.append(f"{gpus}x{flag('batch_size') // gpus}")
        if found.count("2x32") == 1 and found[-1] == "2x32":
            raise UserError("glue.py failed: why")
        return {"epoch_ms": [9.0, 4.0], "row_tokens": 50.0, "bytes": 48, "peak_mb": 1.0}

    def call_ranks(module, settings, ranks, limit_s):
        found.append(module.rpartition(".")[2])
        raise UserError("rank 1 failed: no such library")

    monkeypatch.setattr(measure, "measure_command", measure_command)
    monkeypatch.setattr(measure, "call_ranks", call_ranks)
    return found


def test_the_first_round_and_all_else_come_before_further_rounds_and_failures_are_kept(calls):
    scaling, kept = {}, []
    options = parse(["--scaling", "--device", "cpu", "--repeats", "2"])
    measure.measure_scaling(options, CPU, scaling, lambda: kept.append(1))
    round_ = ["1x32", "2x32", "2x16"]
    assert calls == [*round_, "allreduce_job", "peft_job", "1x4", *round_] and len(kept) == len(calls)
    record = scaling["workloads"]["embedded-roberta"]
    assert (
        record["runs"]["2x32"]["rounds_ms"] == [None, 4.0] and record["runs"]["2x32"]["failed"] == "glue.py failed: why"
    )
    assert record["peft"]["eager"]["failed"] == scaling["all_reduce"]["2"]["failed"] == "rank 1 failed: no such library"


def test_peft_alone_keeps_what_was_measured_of_ours(calls):
    scaling = {}
    measure.measure_scaling(parse(["--scaling", "--device", "cpu", "--ways", "ours"]), CPU, scaling, lambda: None)
    assert "peft_job" not in calls
    before = dict(scaling["workloads"]["embedded-roberta"]["runs"])
    measure.measure_scaling(parse(["--scaling", "--device", "cpu", "--ways", "peft"]), CPU, scaling, lambda: None)
    assert scaling["workloads"]["embedded-roberta"]["runs"] == before and calls[-1] == "peft_job"


@pytest.mark.parametrize(
    ("arguments", "gpu", "told"),
    [
        (["--shape", "bert"], False, "--shape: --scaling knows no 'bert' here; there are embedded-roberta"),
        (["--data_dir", "/nowhere"], True, "--scaling needs the rows of MRPC for roberta-base: --data_dir"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, gpu, told, monkeypatch):
    monkeypatch.delenv("GLUE_DIR", raising=False)
    options = parse(["--scaling", *arguments])
    with pytest.raises(UserError, match=told):
        for work in measure.chosen_workloads(options.shape, gpu):
            measure.data_folder(work, options)


def test_the_network_of_the_flags_is_kept_and_the_rest_stays():
    scaling = {"network": {"gbps": 400.0, "us": 7.0}}
    measure.assume_network(parse(["--network_gbps", "100"]), scaling)
    assert scaling["network"] == {"gbps": 100.0, "us": 7.0}
