"""Checkpoints: written beside their place, taken up only as they were written, and a half run that is never a whole."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from modules.runs.checkpoints import read_checkpoint
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from modules.training.callbacks import EpochSeeds
from modules.training.run import run as train
from modules.training.trainer import CHECKPOINT
from tests.support.runs import adapter, carry_out, planned
from variants.errors import UserError


class Stopped(Exception):
    """What ends a run where it would begin its third epoch."""


@pytest.fixture
def broken(command, monkeypatch) -> RunConfig:
    """A run of four epochs that has ended within its third."""
    (run,) = planned([*command, "--epochs", "4"])
    own = EpochSeeds.on_train_epoch_start

    def stop(self, trainer, module) -> None:
        if trainer.current_epoch == 2:
            raise Stopped
        own(self, trainer, module)

    with monkeypatch.context() as patched:
        patched.setattr(EpochSeeds, "on_train_epoch_start", stop)
        with pytest.raises(Stopped):
            train(run)
    return run


def whole(command: list[str], folder: Path) -> RunConfig:
    (run,) = planned([*command, "--results_dir", str(folder)])
    carry_out(run)
    return run


def assert_same(one: RunConfig, other: RunConfig) -> None:
    """Bit for bit the same figures and weights."""
    results = [ResultStore(run.results_dir).read(run.id) for run in (one, other)]
    assert results[0].epochs == results[1].epochs
    weights = adapter(one), adapter(other)
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_moved_aside_and_said(broken, command, tmp_path, capfd):
    """Faults A1 and A5: half a file, and a flipped bit that torch would read as another number."""
    expected = whole([*command, "--epochs", "4"], tmp_path / "whole")
    checkpoint = broken.folder / CHECKPOINT
    content = checkpoint.read_bytes()
    weight = next(iter(torch.load(checkpoint, weights_only=True)["state_dict"].values()))
    place = content.index(weight.numpy().tobytes()) + 2
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for number, damaged in enumerate((flipped, content[: len(content) // 2], b""), 1):
        checkpoint.write_bytes(damaged)
        ResultStore(broken.results_dir).path(broken.id).unlink(missing_ok=True)
        carry_out(broken)
        said = capfd.readouterr().err
        assert f"{CHECKPOINT}.corrupt-{number}, and it begins anew" in said and "Traceback" not in said
        assert_same(expected, broken)


def test_no_flipped_bit_is_taken_up(broken):
    """Fault A5: a checkpoint with any one bit changed is refused, or holds what was written."""
    file, draw = broken.folder / CHECKPOINT, random.Random(0)
    content, written = file.read_bytes(), torch.load(file, weights_only=True)["state_dict"]
    for _ in range(60):
        place = draw.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        read = read_checkpoint(file, "", lambda content: None)
        assert read is None or all(torch.equal(read["state_dict"][name], written[name]) for name in written)


@pytest.mark.slow
def test_a_moved_folder_goes_on(broken, command, tmp_path):
    """Fault E4: without a word about other folders, to the very same numbers."""
    expected = whole([*command, "--epochs", "4"], tmp_path / "whole")
    moved = tmp_path / "moved"
    shutil.move(broken.results_dir, moved)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        carry_out(RunConfig.read(str(moved), broken.id))
    assert not [str(warning.message) for warning in said if "dirpath" in str(warning.message)]
    assert_same(expected, RunConfig.read(str(moved), broken.id))


def test_nothing_is_written_to_another_disk_first(command, monkeypatch, tmp_path):
    """Faults A1, B7 and B13: a checkpoint never lies in TMPDIR, where a kill would leave it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    (run,) = planned(command, "head")
    replaced = []
    own = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (replaced.append((Path(old), Path(new))), own(old, new)))
    monkeypatch.setattr(tempfile, "mkstemp", lambda *_, **__: pytest.fail("a file in TMPDIR"))
    train(run)
    checkpoints = [(old, new) for old, new in replaced if new.name == CHECKPOINT]
    assert len(checkpoints) == 2 and all(old.parent == new.parent for old, new in checkpoints)
    assert not list(elsewhere.iterdir())


@pytest.mark.slow
def test_half_a_run_is_not_recorded(command, monkeypatch, tmp_path):
    """Fault E1: what ends training early, as Lightning's max_time does, leaves a run that goes on."""
    with pytest.raises(UserError, match="max_time"):
        planned([*command, "--trainer.max_time", "00:00:00:01"])
    run, expected = planned([*command, "--epochs", "3"])[0], whole([*command, "--epochs", "3"], tmp_path / "whole")
    own = EpochSeeds.on_train_epoch_start

    def stop(self, trainer, module) -> None:
        own(self, trainer, module)
        trainer.should_stop = trainer.current_epoch == 1

    with monkeypatch.context() as patched:
        patched.setattr(EpochSeeds, "on_train_epoch_start", stop)
        with pytest.raises(UserError, match="before the end of its 3 epochs"):
            train(run)
    assert not ResultStore(run.results_dir).done(run.id)
    carry_out(run)
    assert_same(expected, run)  # the half epoch is trained anew


@pytest.mark.slow
def test_a_run_that_was_killed_after_its_last_epoch_is_recorded(command, monkeypatch, tmp_path):
    """Its checkpoint is of a whole run: nothing is left to train, and the result is that of an unbroken one."""
    run, expected = planned(command)[0], whole(command, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("modules.training.run.make_result", lambda *_, **__: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            train(run)
    carry_out(run)
    assert_same(expected, run)
