"""Commands and ranks in processes: what is said where they fail or hang."""

import sys

import pytest

from modules.efficiency.jobs.processes import call, call_ranks
from variants.errors import UserError


def test_a_command_that_fails_is_told_by_its_last_line(tmp_path):
    script = tmp_path / "it.py"
    script.write_text("import sys; print('first', file=sys.stderr); sys.exit('error: the reason')")
    with pytest.raises(UserError, match=r"^it.py failed: the reason$"):
        call([sys.executable, str(script)], tmp_path)


def test_a_command_or_a_rank_that_hangs_is_ended(tmp_path, monkeypatch):
    script = tmp_path / "it.py"
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(UserError, match="it.py was ended: it had not finished after 0 s"):
        call([sys.executable, str(script)], tmp_path, limit_s=0.3)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="it was ended: it had not finished after 0 s"):
        call_ranks("it", tmp_path / "settings.json", 2, limit_s=0.3)


def test_ranks_know_one_another_and_the_first_to_fail_is_named(tmp_path, monkeypatch):
    (tmp_path / "ranked.py").write_text(
        "import os, sys, time\n"
        "assert os.environ['WORLD_SIZE'] == '2' and os.environ['MASTER_ADDR'] == '127.0.0.1'\n"
        "time.sleep(60) if os.environ['RANK'] == '0' else sys.exit('rank ' + os.environ['LOCAL_RANK'] + ' is ill')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="^rank 1 of ranked failed: rank 1 is ill$"):
        call_ranks("ranked", tmp_path / "settings.json", 2, limit_s=30)
