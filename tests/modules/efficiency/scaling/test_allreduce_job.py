"""Two processes that add up buffers."""

import json

import pytest

from modules.efficiency.jobs.processes import call_ranks


@pytest.mark.slow
def test_two_processes_time_an_all_reduce(tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"bytes": [400, 4000], "gpu": False, "result": str(tmp_path / "result.json")}))
    call_ranks("modules.efficiency.scaling.allreduce_job", settings, 2, limit_s=60)
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["bytes"] == [400, 4000] and all(0 < ms < 1000 for ms in found["ms"])
