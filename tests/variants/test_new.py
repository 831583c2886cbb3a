"""A file to start a method from, which is a method already."""

from __future__ import annotations

import pytest

from tests.support.models import MODELS
from variants import LoRA, attach, resolve
from variants.check import FAILED, check
from variants.new import main


def test_the_file_is_a_method(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["my_method"]) == 0
    told = capsys.readouterr().out
    assert "python -m variants.check my_method.py:MyMethod" in told
    cls = resolve("my_method.py:MyMethod")
    assert cls.name == "my_method" and cls(r=3).alpha == 8.0
    quick = ["identity at start", "gradients", "merge", "round trip", "determinism", "bf16", "size", "stacking"]
    assert not [finding for finding in check(cls, quick) if finding.status == FAILED]
    counts = [attach(MODELS["roberta"](), each(r=2)).count() for each in (cls, LoRA)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lora.py", "'lora' is a method of this project"),
        ("my-method", "is no name for a file"),
        ("json", "is a module that can be imported, which the file would hide"),
        ("torch.py", "is a module that can be imported, which the file would hide"),
        ("class", "is no name"),
    ],
)
def test_names_that_cannot_be(name, reason, tmp_path, capsys) -> None:
    assert main([str(tmp_path / name)]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays(tmp_path, capsys) -> None:
    (tmp_path / "mine.py").write_text("mine")
    assert main([str(tmp_path / "mine.py")]) == 2
    assert "mine.py exists already" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text() == "mine"
