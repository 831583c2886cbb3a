"""`lora-variants NAME`: every command under one name."""

from __future__ import annotations

import pytest

from paper_repro.__main__ import commands, main


def test_the_list_names_every_command_with_a_sentence(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert {"glue", "e2e", "compare", "tables", "check", "convert", "merge"} <= set(commands())
    for name, (_, sentence) in commands().items():
        assert f"\n  {name} " in text and sentence[:30] in text and "``" not in sentence


def test_a_command_gets_its_words(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lora-variants"])
    with pytest.raises(SystemExit, match="0"):
        main(["e2e-score", "--help"])
    assert capsys.readouterr().out.startswith("usage: lora-variants e2e_score ")
    assert main(["params", "--modle", "x"]) == 2
    assert "did you mean --model" in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["glew"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'glew'; did you mean glue?\n"
