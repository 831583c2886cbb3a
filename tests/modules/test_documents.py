"""Files as plain data: what is refused, in one line that names file and place."""

from __future__ import annotations

import json

import pytest

from modules.documents import read_json, read_text, read_yaml
from variants.errors import LONGEST, UserError, one_line

BOMB = "\n".join(
    f"{name}: &{name} [{', '.join(['*' + before if before else 'x'] * 9)}]"
    for before, name in zip(["", *"abcdefg"], "abcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "its aliases stand for more than 100,000 values"),
        ("a: &a {b: *a}", "line 1: the alias \\*a refers to itself"),
        ("[" * 2000, "file.yaml"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, "nested more than 50 levels deep"),
        ("a: [1, 2", "is not YAML: line "),
        ("!!python/object/apply:os.system [touch x]", "is not YAML: line 1"),
        ("a: !!timestamp 1", "is not YAML"),
        ("a:\n  b: .inf", "a: b is not a finite number"),
        ("a: 2001-01-01", "a is a date: put it in quotes"),
        ("1: 2", "has the key 1"),
        ('a: "\\0"', "a has the character U\\+0000"),
        ('a: "\\ud800"', "is not YAML: line 1|a has the character U"),  # by which of PyYAML's parsers there is
        ("a: " + "9" * 30, "a is not a finite number, or too large a one"),
        ("a: 1\n---\nb: 2", "is not YAML"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, says):
    """YAML bombs, aliases to themselves and tags of Python objects hang or run code in careless loaders."""
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        read_yaml(path)
    assert "file.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_may_repeat_itself(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("\ufeffa: &a {r: 8}\nb: {<<: *a, s: 1}\nc: *a\n")
    assert read_yaml(path) == {"a": {"r": 8}, "b": {"r": 8, "s": 1}, "c": {"r": 8}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 3000, "nested more than 50 levels deep"),
        ('{"a": NaN}', "a is not a finite number"),
        ('{"a": [1, 1e999]}', "a 2 is not a finite number"),
        ('{"a": "\\u001b[2J"}', "a has the character U\\+001B"),
        ('{"a"', "is not JSON: .* line 1 column 5"),
        ("9" * 5000, "is not JSON"),
    ],
)
def test_json_that_is_refused(tmp_path, text, says):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read_json(path)


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"backbone: x\nsource: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin.yaml:2: not UTF-8 \(byte 0xe9\)"):
        read_yaml(path)


def test_what_is_no_file(tmp_path):
    for name, says in (("none", "there is no file"), ("", "Is a directory"), ("a\0b", "null byte")):
        with pytest.raises(UserError, match=says):
            read_text(f"{tmp_path}/{name}")
    with pytest.raises(UserError, match="larger than 1,000 bytes"):
        read_text("/dev/zero", bound=1000)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(path) == {"a": 1}


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = one_line(UserError("x.yaml: r must be a number, not " + "9" * 100_000 + "\n;\x1b[2J see --help"))
    assert len(text) == LONGEST and text.isprintable()
    assert text.startswith("x.yaml: r must be") and text.endswith("see --help") and " … " in text
