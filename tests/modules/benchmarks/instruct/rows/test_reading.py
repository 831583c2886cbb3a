"""Files of instruction data: three kinds, and errors that say where."""

import json

import pandas as pd
import pytest

from modules.benchmarks.instruct.rows.reading import files_of, read_file
from variants.errors import UserError

ROWS = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(3)]


def test_three_kinds_of_files_hold_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    found = [read_file(tmp_path / f"a.{kind}") for kind in ("json", "jsonl", "parquet")]
    assert found[0] == found[1] == found[2]
    assert found[0][1] == "instruction and output" and [e.response for e in found[0][0]] == ["0", "1", "2"]


def test_messages_in_parquet_are_lists_of_arrays(tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    pd.DataFrame([{"messages": chat}]).to_parquet(tmp_path / "a.parquet")
    ((example,), form) = read_file(tmp_path / "a.parquet")
    assert form == "messages" and example.messages == (("user", "a"),) and example.response == "b"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a.jsonl:2: is no JSON"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', r"a.jsonl:2: 'text' is a number"),
        ("a.json", '[{"text": "a"}, {"txt": "b"}]', r"a.json: row 2: lacks 'text'"),
        ("a.json", '{"text": "a"}\n{"text": "b"}', "or is it JSON lines"),
        ("a.json", "{}", "holds no list of rows"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.txt", "a", "names end in .json, .jsonl, .parquet"),
        ("a.jsonl", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_an_error_says_where_and_what(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_file(path)


def test_a_folder_names_its_splits(tmp_path):
    for name in ("train.json", "dev.jsonl", "test.parquet"):
        (tmp_path / name).touch()
    assert {split: [path.name for path in paths] for split, paths in files_of(tmp_path).items()} == {
        "train": ["train.json"],
        "validation": ["dev.jsonl"],
        "test": ["test.parquet"],
    }
    (tmp_path / "val.json").touch()
    with pytest.raises(UserError, match="has both dev.jsonl and val.json"):
        files_of(tmp_path)


def test_a_split_may_be_several_files_as_the_hub_has_them(tmp_path):
    (tmp_path / "data").mkdir()
    for number in (1, 0):
        (tmp_path / "data" / f"train-0000{number}-of-00002.parquet").touch()
    assert [path.name[:11] for path in files_of(tmp_path)["train"]] == ["train-00000", "train-00001"]
    (tmp_path / "train.parquet").touch()
    with pytest.raises(UserError, match="has both train.parquet and train-00000-of-00002.parquet"):
        files_of(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jsonl").touch()
    with pytest.raises(UserError, match="no train file .* among a.jsonl, ...; name a file by --data, or call it so"):
        files_of(tmp_path / "other")
