"""Processes that add up buffers: here a group of one, as it costs nothing to start."""

import json

from modules.efficiency.scaling import allreduce_job
from modules.launch.ranks import free_port


def test_an_all_reduce_of_each_size_is_timed(tmp_path, monkeypatch):
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in (place | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    result = tmp_path / "result.json"
    allreduce_job.main({"bytes": [400, 4000], "gpu": False, "result": str(result)})
    found = json.loads(result.read_text())
    assert found["bytes"] == [400, 4000] and all(0 < ms < 1000 for ms in found["ms"])
