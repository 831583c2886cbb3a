"""Programs of the project find its own packages in folders, and under paths, that have others of their names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from variants.start import python

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder as research repositories have them; whoever imports from it ends."""
    for name in ("modules", "variants"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the wrong {name}')")
    for name in ("tables", "train"):
        (tmp_path / f"{name}.py").write_text("mine = True")
    (tmp_path / "spawning.py").write_text(
        "import multiprocessing, tables\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(tables.mine, pool.apply(eval, ('__import__(\"modules.paths\").__file__',)))\n"
    )
    return tmp_path


def said(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_module_is_started_as_by_python_m_among_the_projects_packages(folder):
    assert said(python("modules.launch.claims"), folder) == ""
    assert said(python("-u", "-m", "variants.check", "--version"), folder).startswith("lora-variants")


def test_processes_that_it_spawns_find_them_too_and_the_folders_other_modules_stay(folder):
    assert said(python("spawning"), folder).split() == ["True", str(ROOT / "modules" / "__init__.py")]


@pytest.mark.parametrize("command", [[f"{ROOT}/paper_repro/params.py"], ["-m", "paper_repro"]])
def test_commands_find_them(folder, command):
    assert said([sys.executable, *command, "--version"], folder).startswith("lora-variants")


def test_the_folder_of_the_scripts_hides_no_module_of_another_name(folder):
    code = "import sys, runpy; sys.path.insert(0, {!r}); import paper_repro, tables; print(tables.mine)"
    assert said([sys.executable, "-c", code.format(str(ROOT / "paper_repro"))], folder) == "True\n"
