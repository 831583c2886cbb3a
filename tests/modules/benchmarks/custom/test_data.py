"""Own data: what is read from files, how labels are told, how a dev split is cut, and what is said of bad input."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from modules.benchmarks.custom import CUSTOM
from modules.benchmarks.custom.source import TableSource
from modules.data.source import Split
from modules.runs.config import RunConfig
from variants.errors import UserError


def written(folder: Path, name: str = "notes.csv", text: str = "text,label\n") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(labels, name: str = "label") -> str:
    return f"text,{name}\n" + "".join(f"note {i},{label}\n" for i, label in enumerate(labels))


def load(path, **given) -> tuple[dict[str, Split], TableSource]:
    own = CUSTOM.on({"data": str(path), **given})
    source = own.source("embedded", None)
    return source.load(next(iter(own.tasks.values()))), source


# ---- files -------------------------------------------------------------------------------------------------------


def test_all_kinds_of_files_hold_the_same_rows(tmp_path):
    """A comma, a quote, a line's end and letters of other alphabets in the text."""
    texts = ['one, two "three"', "zwölf\nZeilen", "ελληνικά", "tab"] * 5
    frame = pd.DataFrame({"more": range(20), "text": texts, "label": ["b", "a", "b", "a"] * 5})
    frame.to_csv(tmp_path / "x.csv", index=False, encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    hashes, first = set(), None
    for kind in ("csv", "parquet", "jsonl"):
        splits, source = load(tmp_path / f"x.{kind}")
        first = first or splits
        assert splits == first and source.name == f"x.{kind}" and source.kind == "file"
        hashes.add(source.hash(CUSTOM.on({"data": f"x.{kind}"}).tasks["x"]))
    assert len(hashes) == 1
    everything = sorted(first["train"].texts + first["validation"].texts)
    assert everything == sorted((text,) for text in texts)


def test_a_folder_gives_its_files_and_flags_win(tmp_path):
    written(tmp_path, "train.csv", rows_of("ababab"))
    written(tmp_path, "valid.csv", rows_of("aab"))
    written(tmp_path, "test.tsv", rows_of("ab").replace(",", "\t"))
    splits, source = load(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 3, "test": 2}
    assert source.kind == "folder" and source.name == tmp_path.name
    splits, _ = load(tmp_path, dev=str(written(tmp_path, "other.csv", rows_of("abbb"))))
    assert splits["validation"].labels == [0, 1, 1, 1]


def test_a_data_set_of_the_hub(monkeypatch):
    import datasets

    features = datasets.Features({"a": datasets.Value("string"), "y": datasets.ClassLabel(names=["no", "yes"])})
    made = {
        name: datasets.Dataset.from_dict({"a": [f"{name} {i}" for i in range(6)], "y": values}, features)
        for name, values in (("train", [1, 0] * 3), ("test", [-1] * 6))
    }
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or made)
    monkeypatch.setattr("modules.hub.from_hub", lambda what, repo, cached, load: load())
    splits, source = load("owner/deep-notes:small", text="a", label="y")
    assert asked == [("owner/deep-notes", "small")] and source.kind == "hub"
    assert source.labels.names == ("no", "yes")  # the data set's order, not the alphabet's
    assert "test" not in splits and any("has no labels" in note for notes in source.notes.values() for note in notes)
    own = CUSTOM.on({"data": "owner/deep-notes:small"})
    assert list(own.tasks) == ["deep_notes_small"]


def test_two_texts_are_a_pair(tmp_path):
    path = written(tmp_path, text="q,a,y\n" + "".join(f"q{i},a{i},{i % 2}\n" for i in range(8)))
    splits, _ = load(path, text="q,a", label="y")
    assert all(len(row) == 2 and row[0][1:] == row[1][1:] for row in splits["train"].texts)


# ---- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "given", "kind", "names"),
    [
        (["b", "a"] * 4, {}, "classes", ("a", "b")),
        ([10, 9, 2] * 4, {}, "classes", ("2", "9", "10")),  # by value, not by letter
        (["true", "false"] * 4, {}, "classes", ("false", "true")),
        ([1.5, 2.0, 3.0] * 4, {}, "score", ()),
        ([1, 2, 3] * 4, {"label_kind": "score"}, "score", ()),
        (["a|b", "b", "", "a"] * 4, {"label_kind": "multi"}, "multi", ("a", "b")),
        (["a|b", "b"] * 4, {}, "classes", ("a|b", "b")),
    ],
)
def test_the_kind_of_label_is_told_by_its_values(tmp_path, values, given, kind, names):
    splits, source = load(written(tmp_path, text=rows_of(values)), **given)
    assert (source.labels.kind, source.labels.names) == (kind, names)
    found = splits["train"].labels + splits["validation"].labels
    if kind == "classes":
        assert Counter(names[k] for k in found) == Counter(map(str, values))
    if kind == "score":
        assert sorted(found) == sorted(map(float, values)) and all(type(value) is float for value in found)
    if kind == "multi":
        sets = ["|".join(name for name, on in zip(names, row, strict=True) if on) for row in found]
        assert Counter(sets) == Counter(values)


def test_several_columns_and_lists_are_several_labels(tmp_path):
    path = written(tmp_path, text="text,rude,wild\n" + "".join(f"t{i},{i % 2},{int(i % 4 == 3)}\n" for i in range(16)))
    columns, source = load(path, label="rude,wild")
    assert source.labels.names == ("rude", "wild")
    lines = [{"text": f"t{i}", "label": ["rude"] * (i % 2) + ["wild"] * (i % 4 == 3)} for i in range(16)]
    lists, _ = load(written(tmp_path, "x.jsonl", "\n".join(map(json.dumps, lines))))
    assert sorted(lists["train"].labels) == sorted(columns["train"].labels)


# ---- the cut -----------------------------------------------------------------------------------------------------


def test_the_cut_is_stratified_seeded_and_whole(tmp_path):
    path = written(tmp_path, text=rows_of(["common"] * 90 + ["rare"] * 10 + ["twice"] * 2))
    splits, _ = load(path, dev_share="0.2")
    assert Counter(splits["validation"].labels) == {0: 18, 1: 2, 2: 1} and len(splits["train"]) == 81
    assert not set(splits["train"].texts) & set(splits["validation"].texts)
    assert load(path, dev_share="0.2")[0] == splits
    other, source = load(path, dev_share="0.2", split_seed="1")
    assert other["validation"].texts != splits["validation"].texts
    task = next(iter(CUSTOM.on({"data": str(path)}).tasks.values()))
    assert source.hash(task) != load(path, dev_share="0.2")[1].hash(task)  # so runs of the two have different ids


def test_scores_are_cut_over_their_range(tmp_path):
    splits, _ = load(written(tmp_path, text=rows_of([i + 0.5 for i in range(100)])), dev_share="0.1")
    assert sorted(int(value // 10) for value in splits["validation"].labels) == list(range(10))


def test_names_of_labels_are_part_of_the_hash(tmp_path):
    task = next(iter(CUSTOM.on({"data": "notes.csv"}).tasks.values()))
    one = load(written(tmp_path, "notes.csv", rows_of("abab")))[1].hash(task)
    assert load(written(tmp_path, "notes.csv", rows_of("xyxy")))[1].hash(task) != one


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        (rows_of("abab"), {"label": "stars"}, "notes.csv: there is no column 'stars'; it has text, label"),
        (rows_of("abab"), {"text": "a,b,c"}, "--text names one column or two, not 3"),
        (rows_of("abab"), {"text": "label"}, "the column 'label' is named by --text and by --label"),
        (rows_of("abab"), {"label_kind": "number"}, "--label_kind must be one of auto, classes, score, multi"),
        (rows_of("abab"), {"dev_share": "1.5"}, "--dev_share must be a share between 0 and 1"),
        (rows_of("abab"), {"split_seed": "x"}, "--split_seed must be a whole number"),
        (rows_of("abab"), {"dev": "/nowhere/dev.csv"}, "/nowhere/dev.csv: cannot be read"),
        ("text,label\n", {}, "notes.csv: has no rows"),
        ("", {}, "notes.csv: there is no column 'text'; it has no column"),
        (rows_of("aaaa"), {}, "all rows have the label 'a': there is nothing to learn"),
        (rows_of([0.5] * 4), {}, "all rows have the score 0.5: there is nothing to learn"),
        (rows_of("aabab") + ",a\n,b\n", {}, r"row 6: 'text' is empty \(2 rows are so\); leave such rows out"),
        (rows_of("aabb") + "t,\n", {}, "row 5: 'label' is empty: a row needs a label"),
        (rows_of("aaab"), {}, "'b' has one row alone, which cannot be in train and in dev"),
        (rows_of(range(50)), {}, r"'label' has 50 different labels in 50 rows: is it a score \(--label_kind score\)"),
        (rows_of([1.5, "x", 2.0]), {"label_kind": "score"}, "row 2: 'label' is 'x', which is no score"),
        (rows_of("abab") + "one, two,a\n", {}, "notes.csv:6: 3 cells, and the header has 2; a text that holds a comma"),
        ("text,label\nhello, you,a\n", {}, "notes.csv:2: 3 cells, and the header has 2"),
        ('text,label\n"open,a\n', {}, "is no csv table: Error: unexpected end of data"),
        (rows_of([2, 0]).replace("label", "a,b", 1).replace(",2", ",2,1").replace(",0", ",0,1"), {"label": "a,b"},
         "row 1: 'a' is '2': of several label columns each holds 1 or 0"),
        ("text,a,b\n" + "t,0,0\n" * 4, {"label": "a,b"}, "all rows have the same a, b: there is nothing to learn"),
        ("text,label,label\nt,a,b\n", {}, "notes.csv: the header has 'label' 2 times: rename or drop one"),
    ],
)  # fmt: skip
def test_bad_data_are_one_line(tmp_path, text, given, said):
    path = written(tmp_path, text=text)
    with pytest.raises(UserError, match=said) as error:
        load(path, **given)
    assert "\n" not in str(error.value)


def test_other_bad_files_are_one_line(tmp_path):
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    for path, said in [
        (tmp_path / "latin.csv", "latin.csv: not UTF-8"),
        (tmp_path / "none.csv", "there is no such file or folder"),
        (written(tmp_path, "x.xlsx", "x"), "a table's name ends in .csv"),
        (written(tmp_path, "x.jsonl", '{"text": "a"}\n\n{"text"\n'), "x.jsonl:3: is no JSON"),
        (written(tmp_path, "mixed.jsonl", '{"text":"a","label":"x"}\n{"text":"b","label":1}\n'), "write all as text"),
        (written(tmp_path, "number.jsonl", '{"text":1,"label":"x"}\n{"text":2,"label":"y"}\n'), "row 1: 'text' is 1"),
    ]:
        with pytest.raises(UserError, match=said) as error:
            load(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="row 2: the label 'c' is not among those of the training rows: a, b"):
        load(written(tmp_path, text=rows_of("abab")), dev=str(written(tmp_path, "dev.csv", rows_of("ac"))))
    with pytest.raises(UserError, match="name your data"):
        CUSTOM.on({})


def test_a_metric_of_another_kind_is_refused(tmp_path):
    own = CUSTOM.on({"data": str(written(tmp_path, text=rows_of("abab")))})
    source, task = own.source("embedded", None), own.tasks["notes"]
    assert own.labelled(task, source, {}).metrics == ("accuracy", "f1_macro")
    assert own.labelled(task, source, {"metric": "f1,accuracy"}).column == "f1_macro"
    with pytest.raises(UserError, match="--metric pearson: .*a task of this kind has no metric 'pearson'"):
        own.labelled(task, source, {"metric": "pearson"})
    with pytest.raises(UserError, match="metric must be a comma list of accuracy, .*, got 'f2'"):
        own.settings.check({"metric": "f2"}, "settings")


def test_a_worker_reads_the_rows_of_the_configuration(tmp_path):
    """The description survives the configuration's file."""
    path = written(tmp_path, text=rows_of("abab"))
    spec = {"data": str(path), "label": "label"}
    place = {"source": "file", "name": "notes.csv", "hash": "x"}
    config = RunConfig(
        "custom", "notes", "lora", {}, "default", 0, place, place | {"spec": spec}, {}, results_dir=str(tmp_path)
    )
    config.write()
    assert RunConfig.read(str(tmp_path), config.id).data["spec"] == spec
