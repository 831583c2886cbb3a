"""Workers of a launcher's ranks: the first decides for all."""

from __future__ import annotations

import threading
import time

import pytest
import torch

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


@pytest.fixture
def too_full(monkeypatch):
    """Begins a run, for which the GPU is too full as often as asked for."""
    begun: list[str] = []
    full: dict[str, int] = {}

    def run_seeds(configs, **_):
        begun.append(configs[0].id)
        if full.get(configs[0].id, 0):
            full[configs[0].id] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr("modules.training.run.run_seeds", run_seeds)
    return begun, full


@pytest.mark.parametrize(
    ("at_once", "times", "order", "code"), [("2", 1, "aba", 0), ("2", 2, "aba", 1), ("1", 1, "ab", 1)]
)
def test_too_little_memory_beside_others_is_tried_again_at_the_end(
    command, monkeypatch, capfd, too_full, at_once, times, order, code
):
    """Once; a run that has the GPU for itself fails at once."""
    begun, full = too_full
    names = dict(zip("ab", planned(command, seeds=[0, 1]), strict=True))
    full[names["a"].id] = times
    monkeypatch.setenv("LORA_VARIANTS_RUNS_AT_ONCE", at_once)
    assert worker.main([names["a"].results_dir, names["a"].id, names["b"].id]) == code
    assert begun == [names[name].id for name in order]
    said = capfd.readouterr()
    assert said.out.count("tried again when the others have ended") == (at_once == "2")
    assert said.err.count("error: ") == said.err.count("\n") == code


def test_it_waits_for_the_runs_of_others(command, monkeypatch, too_full):
    begun, full = too_full
    one, other = planned(command, seeds=[0, 1])
    full[one.id] = 1
    monkeypatch.setenv("LORA_VARIANTS_RUNS_AT_ONCE", "2")
    results = []
    with claim(other.folder) as held:
        assert held
        thread = threading.Thread(target=lambda: results.append(worker.main([one.results_dir, one.id, other.id])))
        thread.start()
        time.sleep(3)
        assert begun == [one.id] and not results
    thread.join(30)
    assert results == [0] and begun == [one.id, one.id]
