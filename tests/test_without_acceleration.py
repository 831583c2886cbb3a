"""Both acceleration folders are deleted in a copy of the project: its reference tests pass, and a run trains."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("variants", "modules", "paper_repro", "configs", "tests", "pyproject.toml", "README.md")
ALONE = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
"""
"""Python carries this out at its start: an editable install would find in the original what the copy lacks."""
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
    "tests/variants/formats/peft",
    "tests/variants/contract",
    "tests/variants/test_convert.py",
    "tests/modules/data",
    "tests/modules/training/test_run.py",
)
"""What acceleration is to leave as it is: methods, adapters, files, the contract, batches, a run."""


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> Path:
    """A copy of the project without the two folders."""
    folder = tmp_path_factory.mktemp("copies") / "without"
    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    for part in DELETED:
        shutil.rmtree(folder / part)
    (folder / "sitecustomize.py").write_text(ALONE)
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )


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
