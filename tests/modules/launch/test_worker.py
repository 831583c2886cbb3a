"""Workers of a launcher's ranks: the first decides for all."""

from __future__ import annotations

import pytest

from modules.launch import worker
from modules.launch.claims import claim
from modules.runs.results import ResultStore
from tests.support.runs import planned


@pytest.fixture
def at_once(monkeypatch):
    """What a worker begins, instead of training it."""
    begun = []
    monkeypatch.setattr("modules.training.run.run_seeds", lambda configs, **_: begun.append(configs[0].id))
    return begun


@pytest.mark.parametrize("done", [False, True])
def test_the_first_rank_ends_the_command_where_others_are_at_a_run(
    command, monkeypatch, capfd, tmp_path, at_once, done
):
    """The others begin with it, and would wait for the first, or meet it in the next run."""
    (run,) = planned(command)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    path = ResultStore(run.results_dir).path(run.id)
    if done:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    with claim(run.folder) as held:
        assert held
        monkeypatch.setenv("RANK", "1")
        assert worker.main([run.results_dir, run.id]) == 0 and at_once == [run.id]
        monkeypatch.setenv("RANK", "0")
        if not done:
            assert worker.main([run.results_dir, run.id]) == 1
    if done:
        assert worker.main([run.results_dir, run.id]) == 1
    said = capfd.readouterr().err
    assert at_once == [run.id] and said.count("\n") == 1
    assert ("is done, by another command" if done else "is with another command (process") in said
