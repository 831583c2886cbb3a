"""Reading the official TSV files: their layout, their quirks, and one line for every mistake."""

import os
from pathlib import Path

import pytest

from modules.benchmarks.glue.sources import EmbeddedSource, FolderSource
from modules.benchmarks.glue.tasks import TASKS
from modules.data.source import Split, content_hash
from modules.embedded import shipped
from variants.errors import UserError

# Two rows of each train file as in the download: (folder, header or None, rows, expected texts, expected labels).
OFFICIAL = {
    "cola": (
        None,
        ['gj04\t1\t\tIt "works".', "gj04\t0\t*\tWorks it."],
        [('It "works".',), ("Works it.",)],
        [1, 0],
    ),
    "sst2": ("sentence\tlabel", ["a charm \t1", "dull \t0"], [("a charm ",), ("dull ",)], [1, 0]),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ['1\t7\t8\tHe said "no.\tHe refused.', "0\t9\t6\tA\tB"],
        [('He said "no.', "He refused."), ("A", "B")],
        [1, 0],
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        ["0\tg\tf\t2012\t1\tnone\tnone\tA plane.\tAn aeroplane.\t5.000", "1\tg\tf\t2012\t2\tnone\tnone\tA\tB\t0.250"],
        [("A plane.", "An aeroplane."), ("A", "B")],
        [5.0, 0.25],
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ["1\t2\t3\tWhy?\tHow so?\t1", "2\t3\t4\tWho?\tWhen?\t0"],
        [("Why?", "How so?"), ("Who?", "When?")],
        [1, 0],
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        [
            "0\t\t\t\t\t\t\t\tIt rains.\tIt is wet.\tneutral\tentailment",
            "1\t\t\t\t\t\t\t\tA\tB\tentailment\tcontradiction",
        ],
        [("It rains.", "It is wet."), ("A", "B")],
        [0, 2],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        ["0\tWho?\tHe.\tentailment", "1\tWhy?\tNo.\tnot_entailment"],
        [("Who?", "He."), ("Why?", "No.")],
        [0, 1],
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        ["0\tA\tB\tnot_entailment", "1\tC\tD\tentailment"],
        [("A", "B"), ("C", "D")],
        [1, 0],
    ),
}
DEV_FILES = {"mnli": ("dev_matched.tsv", "dev_mismatched.tsv")}


def write(path: Path, header: str | None, rows: list[str], newline: str = "\n", bom: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((bom + newline.join(([header] if header else []) + rows)).encode())


@pytest.fixture
def folder(tmp_path):
    """A GLUE folder with two rows per file."""
    for name, (header, rows, _, _) in OFFICIAL.items():
        for file in ("train.tsv", *DEV_FILES.get(name, ("dev.tsv",))):
            write(tmp_path / TASKS[name].folder / file, header, rows)
    return tmp_path


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layout(folder, name):
    _, _, texts, labels = OFFICIAL[name]
    task, source = TASKS[name], FolderSource(folder)
    splits = source.load(task)
    assert set(splits) == {"train", *task.eval_splits}
    assert all(split == Split(texts, labels) for split in splits.values())
    assert source.sizes[name] == dict.fromkeys(splits, 2) and source.notes[name] == []
    assert source.kind == "folder" and source.name == folder.name


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name != "cola"])
def test_columns_are_found_by_name(folder, name):
    header, rows, texts, labels = OFFICIAL[name]
    turned = ["\t".join(reversed(line.split("\t"))) for line in (header, *rows)]
    write(folder / TASKS[name].folder / "train.tsv", turned[0], turned[1:])
    assert FolderSource(folder).load(TASKS[name])["train"] == Split(texts, labels)


def test_bom_and_crlf_change_nothing(folder):
    plain = FolderSource(folder).hash(TASKS["rte"])
    header, rows, texts, labels = OFFICIAL["rte"]
    write(folder / "RTE" / "train.tsv", header, [*rows, ""], newline="\r\n", bom="\ufeff")
    source = FolderSource(folder)
    assert source.load(TASKS["rte"])["train"] == Split(texts, labels)
    assert source.hash(TASKS["rte"]) == plain


def test_bom_before_a_column_that_is_read(folder):
    header, rows, texts, labels = OFFICIAL["sst2"]
    write(folder / "SST-2" / "train.tsv", header, rows, bom="\ufeff")
    assert FolderSource(folder).load(TASKS["sst2"])["train"] == Split(texts, labels)


def test_only_a_line_feed_ends_a_row(folder):
    text = "one\u2028two\x85three\x0cfour"
    write(folder / "SST-2" / "train.tsv", "sentence\tlabel", [f"{text}\t1"])
    assert FolderSource(folder).load(TASKS["sst2"])["train"] == Split([(text,)], [1])


def test_absent_mismatched_split_is_noted(folder):
    (folder / "MNLI" / "dev_mismatched.tsv").unlink()
    source = FolderSource(folder)
    assert set(source.load(TASKS["mnli"])) == {"train", "validation_matched"}
    assert "only the matched" in source.notes["mnli"][0]


def test_short_rows_of_qqp_train_are_left_out_and_counted(folder):
    header, rows, texts, labels = OFFICIAL["qqp"]
    write(folder / "QQP" / "train.tsv", header, [rows[0], "3\t4\t5\tBroken off", rows[1]])
    source = FolderSource(folder)
    assert source.load(TASKS["qqp"])["train"] == Split(texts, labels)
    assert "1 rows" in source.notes["qqp"][0]
    write(folder / "QQP" / "dev.tsv", header, [*rows, "3\t4\t5\tBroken off"])
    with pytest.raises(UserError, match=r"QQP/dev\.tsv:4: expected 6 tab-separated columns, found 4"):
        source.load(TASKS["qqp"])


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("rte", ["index\tsentence1\tsentence2\tlabel", "0\tA\tB\tmaybe"], r"train\.tsv:2: .*found 'maybe'"),
        ("rte", ["index\tsentence1\tlabel", "0\tA\tentailment"], r"train\.tsv:1: .*column 'sentence2'"),
        (
            "rte",
            ["index\tsentence1\tsentence2\tlabel", "0\tA\tB\tentailment\textra"],
            r"tsv:2: .* 4 .*columns, found 5",
        ),
        ("cola", ["a\t1\t\tFine.", "a\t2\t\tOdd."], r"train\.tsv:2: expected a label among 0, 1, found '2'"),
        ("cola", ["a\t1\t\tFine.", "a\t1\tToo few."], r"train\.tsv:2: expected 4 tab-separated columns, found 3"),
        ("sst2", ["sentence\tlabel", "good\t1", "", "bad\t0"], r"train\.tsv:3: expected 2 .*found 1"),
        ("stsb", [OFFICIAL["stsb"][0], OFFICIAL["stsb"][1][0].replace("5.000", "high")], r"tsv:2: .*score.*'high'"),
        ("stsb", [OFFICIAL["stsb"][0], OFFICIAL["stsb"][1][0].replace("5.000", "nan")], r"tsv:2: .*score.*'nan'"),
        ("mnli", [OFFICIAL["mnli"][0]], r"MNLI train has no rows"),
        ("qnli", [], r"train\.tsv:1: expected a header"),
    ],
)
def test_mistakes_are_named_by_file_and_line(folder, name, lines, message):
    write(folder / TASKS[name].folder / "train.tsv", None, lines)
    with pytest.raises(UserError, match=message) as caught:
        FolderSource(folder).load(TASKS[name])
    assert "\n" not in str(caught.value) and "restore the official file" in str(caught.value)


def test_bad_utf8_is_named_by_line(folder):
    (folder / "SST-2" / "train.tsv").write_bytes(b"sentence\tlabel\ngood\t1\ncaf\xe9\t1\n")
    with pytest.raises(UserError, match=r"train\.tsv:3: not UTF-8"):
        FolderSource(folder).load(TASKS["sst2"])


def test_missing_file_and_folder(folder):
    (folder / "RTE" / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"RTE/dev\.tsv: cannot be read \(No such file"):
        FolderSource(folder).load(TASKS["rte"])
    with pytest.raises(UserError, match="does not exist"):
        FolderSource(folder / "nowhere")


def test_hash_follows_the_content():
    rows = {"train": Split([("a", "b"), ("c", "d")], [0, 1])}
    changed = [
        {"train": Split([("a", "b"), ("c", "d")], [0, 0])},
        {"train": Split([("a", "b"), ("c", "e")], [0, 1])},
        {"train": Split([("a", "b c"), ("", "d")], [0, 1])},
        {"train": Split([("a", "b", "c"), ("d",)], [0, 1])},
        {"train": Split([("c", "d"), ("a", "b")], [1, 0])},
        {"validation": Split([("a", "b"), ("c", "d")], [0, 1])},
        {"train": Split([("a", "b")], [0])},
    ]
    assert content_hash(rows) == content_hash({"train": Split([("a", "b"), ("c", "d")], [0, 1])})
    assert len({content_hash(rows), *map(content_hash, changed)}) == 1 + len(changed)


def test_embedded_source_is_complete_and_deterministic():
    for name in shipped():
        task, first, other = TASKS[name], EmbeddedSource(seed=0), EmbeddedSource(seed=1)
        splits = first.load(task)
        assert set(splits) == {"train", *task.eval_splits}
        for split in splits.values():
            assert len(split.texts) == len(split.labels) > 0
            assert all(len(row) == len(task.fields) for row in split.texts)
            if task.kind == "score":
                assert all(0 <= label <= 5 for label in split.labels)
            else:
                assert set(split.labels) == set(range(task.num_labels))
        unmade = EmbeddedSource(seed=0)  # knows what it would make
        assert unmade.hash(task) == first.hash(task) == content_hash(splits) != other.hash(task)
        assert unmade.sizes == first.sizes == {name: shipped()[name]["sizes"]}


# Wang et al. 2019, Table 1, and the label counts of the files themselves.
REAL = {"cola": (8551, 1043), "sst2": (67349, 872), "mrpc": (3668, 408), "stsb": (5749, 1500), "rte": (2490, 277)}
POSITIVE = {"cola": (6023, 721), "sst2": (37569, 444), "mrpc": (2474, 279), "rte": (1241, 131)}


@pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="GLUE_DIR does not name a folder of the official GLUE files")
@pytest.mark.parametrize("name", REAL)
def test_official_files(name):
    source = FolderSource(os.environ["GLUE_DIR"])
    splits = source.load(TASKS[name])
    assert (len(splits["train"]), len(splits["validation"])) == REAL[name]
    if name in POSITIVE:
        assert tuple(sum(split.labels) for split in splits.values()) == POSITIVE[name]
    else:
        assert sum(splits["train"].labels) / REAL[name][0] == pytest.approx(2.701, abs=5e-4)
