"""Every command answers --help at once, from any folder, as a file and as a module."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import paper_repro

FOLDER = Path(paper_repro.__file__).parent
COMMANDS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
HEAVY = ("torch", "transformers", "lightning", "matplotlib", "numpy")
WITHOUT_ADAPTERS = ("analysis", "chat", "dashboard", "e2e_score", "params", "perplexity", "predict", "report", "tables")
"""Commands that compute no pass through adapters, and so have nothing to accelerate."""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_by_examples_and_loads_nothing_heavy(name, tmp_path):
    line = [sys.executable, "-X", "importtime", str(FOLDER / f"{name}.py"), "--help"]
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 0 and f"python paper_repro/{name}.py" in done.stdout
    assert not [package for package in HEAVY if f"| {package}\n" in done.stderr]
    assert ("--reference" in done.stdout) == (name not in WITHOUT_ADAPTERS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_with_a_main(name, tmp_path):
    main = import_module(f"paper_repro.{name}").main
    (argv,) = inspect.signature(main).parameters.values()
    assert argv.name == "argv" and argv.default is None
    line = [sys.executable, "-m", f"paper_repro.{name}", "--no_such_flag"]
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr
