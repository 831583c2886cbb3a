"""Lines of a run where nobody watches: each epoch, and signs of life within long ones."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from modules.runs import progress as shown
from modules.training import progress
from modules.training.progress import Progress, in_notebook

STEPS = 1000


def lines(monkeypatch, capsys, seconds: float, shown_by: str | None = "lines") -> list[str]:
    """What is printed in two epochs of so many seconds each; the clock stands still but for steps."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.time))
    monkeypatch.setenv(shown.SHOWN_BY, shown_by or "")
    history = SimpleNamespace(metric="accuracy", steps=STEPS, step_seconds=[0.01], last={})
    run = Progress("rte lora seed 0", history, folder=None, live=False)
    monkeypatch.setattr(shown.Progress, "write", lambda *_: None)
    trainer = SimpleNamespace(is_global_zero=True, max_epochs=2, estimated_stepping_batches=2 * STEPS)
    trainer.current_epoch = trainer.global_step = 0
    run.on_train_start(trainer, None)
    for epoch in range(2):
        trainer.current_epoch = epoch
        for _ in range(STEPS):
            now.time += seconds / STEPS
            trainer.global_step += 1
            run.on_train_batch_end(trainer, None)
        history.last = {"epoch": epoch + 1, "accuracy": 0.5, "train_loss": 1.0}
        run.on_validation_end(trainer, None)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("seconds", "within"),
    [
        (25, 0),  # an epoch's own line is sign enough
        (70, 2),  # each 30 s
        (1000, 10),  # each tenth of an epoch
        (6000, 20),  # after 5 minutes too
    ],
)
def test_a_long_epoch_has_lines_of_its_own(monkeypatch, capsys, seconds, within):
    said = lines(monkeypatch, capsys, seconds)
    assert [line for line in said if "accuracy" in line] == [
        f"rte lora seed 0: epoch {epoch}/2, accuracy 50.0, 10.0 ms/step" for epoch in (1, 2)
    ]
    signs = [line for line in said if "step " in line]
    assert abs(len(signs) - 2 * within) <= 1, signs
    assert not within or signs[0].startswith("rte lora seed 0: epoch 1/2, step ") and signs[0].endswith(" left")


def test_the_time_left_is_that_of_the_steps_left(monkeypatch, capsys):
    said = lines(monkeypatch, capsys, 1000)
    assert said[0] == "rte lora seed 0: epoch 1/2, step 100 of 2,000, about 31:40 left"


def test_where_a_command_draws_the_line_none_is_printed(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, 1000, "line") == []


def test_what_has_no_steps_is_said_once_for_all_processes(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv(shown.SHOWN_BY, raising=False)
    for rank in (0, 1):
        monkeypatch.setattr(progress.rank_zero_only, "rank", rank)
        progress.say("e2e lora seed 0", tmp_path, "scoring")
    assert capsys.readouterr().out == "e2e lora seed 0: scoring\n"


def test_a_notebook_is_its_kernel_and_not_what_starts_one(monkeypatch):
    for kernel in (None, object()):
        shell = None if kernel is None else SimpleNamespace(kernel=kernel)
        monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert in_notebook() == (kernel is not None)
