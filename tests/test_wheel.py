"""The wheel is whole: installed, and called from a folder without a checkout, every command does its work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("variants", "modules", "paper_repro", "configs", "results", "tests", "pyproject.toml", "README.md", "LICENSE")
COMMANDS = [
    *(f"paper_repro.{file.stem}" for file in sorted((ROOT / "paper_repro").glob("[!_]*.py"))),
    *(f"variants.{name}" for name in ("check", "convert", "merge")),
]
pytestmark = pytest.mark.slow


IN_ONE = """
import json, runpy, sys

code, *commands = json.loads(sys.argv[1])
for name, *words in commands:
    sys.argv = [name, *words]
    print(f"== {name}", flush=True)
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        ended = 0
    except SystemExit as exit:
        ended = exit.code or 0
    sys.stdout.flush()
    assert ended == code, f"{name} exits with {ended}"
"""
"""Carries out several modules as commands, in one process: imports of torch take longer than what they do."""


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel in it, and an empty folder to work in."""

    python: Path
    site: Path
    here: Path

    def run(self, *words: str, code: int = 0) -> str:
        """What ``python WORDS`` prints, standard error included; it must exit with ``code``."""
        hidden = {"PYTHONPATH", "GLUE_DIR", "E2E_DIR"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"HF_HUB_OFFLINE": "1", "PATH": str(self.python.parent)}  # no Java: METEOR takes seconds
        command = [str(self.python), *words]
        done = subprocess.run(
            command, cwd=self.here, env=environment, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == code, f"{' '.join(words)} exits with {done.returncode}\n{done.stdout}"
        return done.stdout

    def command(self, *words: str, code: int = 0) -> str:
        """The same of ``python -m WORDS``."""
        return self.run("-m", *words, code=code)

    def commands(self, *commands: tuple[str, ...], code: int = 0) -> list[str]:
        """What each of the commands prints, of several that have nothing to do with one another; each must exit with
        ``code``."""
        said = self.run("-c", IN_ONE, json.dumps([code, *commands]))
        return re.split("^== .*\n", said, flags=re.M)[1:]

    def files(self) -> set[str]:
        """What is installed, compiled files left out."""
        paths = (path.relative_to(self.site) for path in self.site.rglob("*") if path.is_file())
        return {path.as_posix() for path in paths if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The wheel of this source in an environment that has everything else from the environment of the tests.

    A folder that a .pth file names is searched, but its own .pth files are not read: an editable install of the
    project in the environment of the tests is out of sight.
    """
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"  # a build leaves files beside the source
    copy.mkdir()
    for name in SOURCE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(copy)]
    if any(
        int(found.version.partition(".")[0]) >= 77 for found in distributions(name="setuptools")
    ):  # as pyproject.toml asks: no need to install another
        build.append("--no-build-isolation")
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    if done.returncode and "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("no package index at hand to take setuptools from")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")

    environment = folder / "environment"
    venv.create(environment, symlinks=os.name != "nt")
    base = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", "venv", base))
    python = Path(sysconfig.get_path("scripts", "venv", base)) / "python"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    others = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "environment-of-the-tests.pth").write_text("\n".join(others) + "\n")
    (folder / "here").mkdir()
    return Installed(python, site, folder / "here")


def test_data_of_the_project_travels_and_its_results_and_tests_do_not(installed: Installed) -> None:
    no_data = (".py", ".pyc", ".md")
    source = {
        path.relative_to(ROOT).as_posix()
        for folder in ("variants", "modules", "paper_repro", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in no_data
    }
    files = installed.files()
    assert source - files == set()
    assert {"variants/py.typed", "modules/py.typed", "modules/embedded/roberta/model.safetensors"} <= files
    assert not [name for name in files if name.startswith(("results/", "tests/"))]


def test_help(installed: Installed) -> None:
    said = installed.commands(*((command, "--help") for command in COMMANDS))
    for command, text in zip(COMMANDS, said, strict=True):
        assert "usage: " in text, command


def test_commands_do_their_work(installed: Installed) -> None:
    """From training to the merged model; what is written lies below the folder of work."""
    here, before = installed.here, installed.files()
    origin = installed.run("-c", "import modules, variants; print(variants.__file__, modules.__file__)")
    assert origin.count(str(installed.site)) == 2, origin

    (program,) = installed.site.glob("bin/lora-variants")  # where pip puts it for a folder
    listed = installed.run(str(program))
    assert all(f"  {name.rpartition('.')[2]} " in listed for name in COMMANDS)

    small = ("--preset", "embedded", "--tasks", "rte", "--seeds", "0", "--epochs", "1", "--wandb", "off", "--jobs", "1")
    few = ("--trainer.limit_train_batches", "4")
    trained = installed.command("paper_repro.glue", "--variant", "lora", "--r", "8", *small, *few)
    assert "embedded" in trained and "RTE" in trained
    (result,) = (here / "results" / "runs").glob("*.json")
    assert (here / "results" / "tables" / "glue.md").is_file()
    adapter, roberta = result.with_suffix("") / "best", installed.site / "modules" / "embedded" / "roberta"
    (here / "text").write_text("one two three four\n")
    said = installed.commands(
        ("variants.convert", str(adapter), "peft", "--to", "peft"),
        ("variants.merge", str(adapter), "--model", str(roberta), "--out", "plain"),
        ("paper_repro.tables", "results", "--no_plots"),
        ("paper_repro.params", "--model", "roberta-base"),
        ("paper_repro.e2e_score", "text", "text"),
    )
    for text, word in zip(said, ("peft", "merged", "written", "LoRA", "BLEU"), strict=True):
        assert word in text, said
    assert installed.files() == before, "nothing is written into the installed packages"


MISTAKES = {
    "paper_repro.tables": "name a results folder",
    "paper_repro.tables --check": "name a results folder",
    "paper_repro.pretrain_gpt2": "name a folder with --out",
    "paper_repro.pretrain_llama": "name a folder with --out",
    "paper_repro.pretrain_roberta": "name a folder with --out",
    "paper_repro.efficiency --since HEAD": "--since compares commits of a checkout",
    "paper_repro.e2e_decode nowhere": "is not the folder of a run",
    "variants.check lroa": "did you mean lora",
}


def test_what_needs_a_checkout_says_so_in_one_line(installed: Installed) -> None:
    said = installed.commands(*(tuple(line.split()) for line in MISTAKES), code=2)
    for (line, says), text in zip(MISTAKES.items(), said, strict=True):
        assert says in text and text.count("\n") == 1, f"{line}: {text}"
