"""The command that scores two files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.scores import files
from tests.support.e2e_texts import OUTPUTS, REFERENCES

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, path=None):
    command = [sys.executable, str(ROOT / "paper_repro" / "e2e_score.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "refs.txt").write_text("\n\n".join("\n".join(group) for group in REFERENCES) + "\n", encoding="utf-8")
    (tmp_path / "out.txt").write_text("\n".join(OUTPUTS) + "\n", encoding="utf-8")
    return tmp_path


def test_plain_text_and_the_command(folder):
    assert files.read(folder / "refs.txt", folder / "out.txt") == (OUTPUTS, REFERENCES)
    done = run(folder / "refs.txt", folder / "out.txt", path=str(folder))  # a PATH without Java
    assert done.returncode == 0
    assert done.stdout == "BLEU: 0.5586\nNIST: 4.0121\nNIST_python: 5.0925\nMETEOR:\nROUGE_L: 0.7195\nCIDEr: 4.2297\n"
    assert done.stderr.count("\n") == 1 and "METEOR needs a Java runtime" in done.stderr
    found = json.loads(run(folder / "refs.txt", folder / "out.txt", "--json", path=str(folder)).stdout)
    assert found["METEOR"] is None and found["inputs"] == 8 and found["tokenizer"] == "own"
    assert round(found["CIDEr"], 4) == 4.2297


def test_the_command_exits_with_2(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for arguments in (
        (tmp_path / "none.txt", tmp_path / "latin.txt"),
        (tmp_path / "latin.txt", tmp_path / "latin.txt"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")


def test_help_teaches_at_once():
    start = time.perf_counter()
    done = run("--help")
    assert time.perf_counter() - start < 10  # 0.2 s on an idle machine: it imports neither torch nor transformers
    assert done.returncode == 0 and "blank line" in done.stdout and "METEOR" in done.stdout
    loaded = "import sys; sys.argv = ['x', '--help']\nimport paper_repro.e2e_score\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=False).returncode == 0
