"""One parser for every command: hyphens, suggestions, mistakes in one line, help without what only programmers know."""

from __future__ import annotations

import pytest

from variants.command_line import Parser, canonical
from variants.errors import UserError


@pytest.fixture
def parser() -> Parser:
    made = Parser("What ``it`` does.\n\n    python it.py X")
    made.add_argument("file")
    made.add_argument("--batch_size", type=int, help="rows")
    made.add_argument("--r", type=int, help="rank")
    made.add_argument("--which", choices=("best", "last"))
    made.add_argument("--no_plots", action="store_true", help="none")
    return made


def test_hyphens_are_underscores_in_names_alone(parser):
    words = ["--batch-size=8", "--which", "best", "--no-plots", "a-file", "--", "--not-a-flag"]
    assert canonical(words) == ["--batch_size=8", "--which", "best", "--no_plots", "a-file", "--", "--not-a-flag"]
    found = parser.parse_args(["--batch-size", "8", "--no-plots", "a-file"])
    assert (found.batch_size, found.no_plots, found.file) == (8, True, "a-file")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--rank 8", "unknown option --rank; did you mean --r?"),
        ("--batch-sizze 8 x", "unknown option --batch_sizze; did you mean --batch_size?"),
        ("--zzzz", "unknown option --zzzz; --help lists them"),
        ("--r x f", "--r must be a whole number, not 'x'"),
        ("--r", "--r needs a value"),
        ("--which none f", "--which must be one of best, last, not 'none'"),
        ("", "file is missing"),
        ("a b", "unexpected word 'b'"),
    ],
)
def test_a_mistake_says_what_and_how_to_mend_it(parser, words, says):
    with pytest.raises(UserError) as error:
        parser.parse_args(words.split())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_help_shows_a_flag_once_and_a_choice_with_its_words(parser):
    text = parser.format_help()
    assert "usage: " in text and "FILE [options]" in text and "``" not in text
    assert "--which {best,last}" in text and "--no_plots  " in text and "    python it.py X" in text


def test_the_version_is_printed(parser, capsys):
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["--version"])
    assert capsys.readouterr().out.startswith("lora-variants")
