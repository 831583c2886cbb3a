"""Both acceleration folders are deleted in a copy of the project: its reference tests pass, and a run trains."""

from pathlib import Path

import pytest

from tests.support.copies import copy_without, python

PARTS = ("variants", "modules", "paper_repro", "configs", "tests", "pyproject.toml", "README.md")
DELETED = ("variants/acceleration", "modules/acceleration")
CHOSEN = (
    "tests/variants/methods/test_lora.py",
    "tests/variants/methods/test_dora.py",
    "tests/variants/methods/test_vera.py",
    "tests/variants/methods/test_adalora.py",
    "tests/variants/adapters/test_adapted_model.py",
    "tests/variants/adapters/test_combine.py",
    "tests/variants/adapters/test_mixed_batch.py",
    "tests/variants/formats/test_native.py",
    "tests/variants/contract",
    "tests/modules/training/test_run.py",
)
"""What acceleration is to leave as it is: methods, adapters, files, the contract, a run. Batches and other formats know
nothing of it (`test_architecture.py`)."""


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> Path:
    """A copy of the project without the two folders."""
    return copy_without(tmp_path_factory.mktemp("copies") / "without", PARTS, DELETED)


@pytest.mark.slow
def test_the_reference_tests_pass(without) -> None:
    marks = "not acceleration and not gpu and not slow"
    done = python(without, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-m", marks, *CHOSEN)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_a_run_trains(without, command) -> None:
    done = python(without, "paper_repro/glue.py", *command, "--variant", "dora", "--reference")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "rte dora seed 0: epoch 2/2" in done.stdout
