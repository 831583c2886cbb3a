"""A run folder from somebody else runs no code when its test set is decoded again (transformers PR 46482)."""

import dataclasses
import json

import pytest

from modules.benchmarks.e2e.redecode import redecode
from modules.runs.config import RunConfig
from variants.errors import VariantError

PLACE = {"spec": "x", "source": "folder", "name": "x", "hash": "0"}


def test_code_comes_from_the_command_line_alone(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "0123456789ab"
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    fields = {"benchmark": "e2e", "task": "e2e", "options": {}, "protocol": "", "seed": 0}
    fields |= {"backbone": PLACE, "data": PLACE, "training": {}}
    config = dataclasses.asdict(RunConfig(variant=f"{tmp_path}/evil.py:X", **fields))
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for spec in (f"{tmp_path}/evil.py:X", "evil.py:X", "evil:X"):
        (folder / "config.json").write_text(json.dumps(config | {"variant": spec}))
        with pytest.raises(VariantError, match="a file brings no code"):
            redecode(folder, {})
        assert not (tmp_path / "ran").exists()
    with pytest.raises(VariantError, match="has no 'X'"):
        redecode(folder, {}, variant=f"{tmp_path}/evil.py:X")  # named by the caller: now it is loaded
    assert (tmp_path / "ran").exists()
