"""The scores as torchmetrics, on one process and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.scores import java, score
from tests.support.e2e_texts import OUTPUTS, REFERENCES

ROOT = Path(__file__).resolve().parents[3]

TWO_RANKS = """
import json, sys
from datetime import timedelta
import torch
from modules.scores.metrics import e2e_metrics
from modules.scores import java

java.shutil.which = lambda program: None
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
)
outputs, references = json.loads(open(store + ".json").read())
for shares in ([[7, 5, 3, 1], [6, 4, 2, 0]], [[0, 1, 2, 3, 4], [5, 6, 7, 0]], [[], list(range(8))]):
    metrics = e2e_metrics()
    mine = shares[rank]
    for i in range(0, len(mine), 3):
        rows = mine[i : i + 3]
        metrics.update([outputs[row] for row in rows], [references[row] for row in rows], rows)
    print(json.dumps({name: float(value) for name, value in metrics.compute().items()}))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_exactly_what_one_gives(tmp_path, no_java):
    (tmp_path / "store.json").write_text(json.dumps([OUTPUTS, REFERENCES]))
    want = {name: value for name, value in score(OUTPUTS, REFERENCES)[0].items() if name != "METEOR"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", TWO_RANKS, str(rank), str(tmp_path / "store")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert all(process.returncode == 0 for process in ranks), outputs
    for said, _ in outputs:
        assert [json.loads(line) for line in said.splitlines()] == [want] * 3


def test_meteor_is_not_made_of_something_else(no_java):
    from modules.scores.metrics import Meteor, e2e_metrics

    assert "METEOR" not in e2e_metrics()
    with pytest.raises(java.Unavailable, match="METEOR needs a Java runtime"):
        Meteor()
