"""Both acceleration folders are deleted in a copy of the project: its reference tests pass, and a run trains."""

import pytest

from modules.runs.results import ResultStore
from tests.support.copies import copy_without, python
from tests.support.runs import carry_out, planned

PARTS = ("variants", "modules", "paper_repro", "configs", "tests", "pyproject.toml", "README.md")
DELETED = ("variants/acceleration", "modules/acceleration")
CHOSEN = (
    "tests/variants/contract",
    "tests/variants/methods/test_lora.py",
    "tests/variants/methods/test_dora.py",
    "tests/variants/methods/test_vera.py",
    "tests/variants/adapters/test_combine.py",
    "tests/variants/adapters/test_mixed_batch.py",
    "tests/variants/formats/test_native.py",
    "tests/modules/training/test_run.py",
)
"""What acceleration leaves as it is: the contract, methods, adapters, files, a run. That no other code knows of the
folders is told by `test_architecture.py` and by `test_one_file_of_modules_imports_acceleration`."""
OTHERS = " or ".join(
    (
        "milora",
        "olora",
        "vblora",
        "randlora",
        "delora",
        "relora",
        "lora_fa",
        "lora_ga",
        "lora_plus",
        "lora_pro",
        "lora_xs",
    )
)
METHODS = f"(not test_holds or lora or dora or vera or adapter_h) and not ({OTHERS} or test_each_break_is_seen)"
"""Of the contract's: lora, adalora, dora and a bottleneck have fast passes of their own, vera has another layer's. That
the contract sees a break is no matter of acceleration."""


RUN_AND_TEST = """
import sys
import pytest
from modules.launch import worker
folder, run, *words = sys.argv[1:]
sys.exit(worker.main([folder, run]) or pytest.main(words))
"""
"""In one process: to import torch and Lightning takes as long as many of the tests."""


@pytest.mark.slow
def test_the_reference_tests_pass_and_a_run_is_the_reference(command, tmp_path) -> None:
    """A worker does the run in a copy without the two folders; here `--reference` leaves acceleration out."""
    without = copy_without(tmp_path / "without", PARTS, DELETED)
    (there,) = planned(command, "dora")
    (here,) = planned(command, "dora", results_dir=str(tmp_path / "here"), reference=True)
    marks = "not acceleration and not gpu and not slow"
    words = ["-n", "0", "-p", "no:cacheprovider", "-m", marks, "-k", METHODS, *CHOSEN]
    done = python(without, "-c", RUN_AND_TEST, there.results_dir, there.id, *words)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "rte dora seed 0: epoch 2/2" in done.stdout
    result = ResultStore(there.results_dir).read(there.id)
    assert result.environment["reference"] is True
    carry_out(here)
    assert result.epochs == ResultStore(here.results_dir).read(here.id).epochs
