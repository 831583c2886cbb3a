"""E2E's files in both forms and from the Hub: the same rows, and mistakes named by file and line."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest

from modules.benchmarks.e2e import TASK
from modules.benchmarks.e2e.sources import REPO, REVISION, FolderSource
from modules.benchmarks.e2e.text import LINEARISATIONS
from tests.support.e2e_tiny import csv_folder, pairs, text_folder
from tests.support.hub_server import HubServer
from tests.support.processes import run as in_new_process
from variants.errors import UserError


def real(*parts: str) -> Path:
    folder = Path(os.environ.get("E2E_DIR", ""), *parts)
    if "E2E_DIR" not in os.environ or not folder.is_dir():
        pytest.skip(f"needs the real data: E2E_DIR with {'/'.join(parts) or 'the CSV files'}")
    return folder


@pytest.mark.slow
def test_the_real_files_of_both_forms_give_the_same_rows():
    official, authors = FolderSource(real()), FolderSource(real("lora_format"))
    first, second = official.load(TASK), authors.load(TASK)
    assert first == second and official.hash(TASK) == authors.hash(TASK)
    sizes = {name: (len(split), len(set(split.labels))) for name, split in first.items()}
    assert sizes == {"train": (42061, 4862), "validation": (4672, 547), "test": (4693, 630)}
    for name, file in (("train", "train.txt"), ("validation", "valid.txt"), ("test", "test.txt")):
        lines = (real("lora_format") / file).read_text(encoding="utf-8").split("\n")[:-1]
        assert [f"{mr}||{text} " for mr, text in first[name].texts] == lines  # byte for byte


def test_tiny_folders_of_both_forms_agree(tmp_path):
    sources = [FolderSource(csv_folder(tmp_path / "csv")), FolderSource(text_folder(tmp_path / "text"))]
    assert sources[0].load(TASK) == sources[1].load(TASK)
    assert sources[0].sizes == {"e2e": {name: len(rows) for name, rows in pairs().items()}}


def change(name: str, number: int, line: str | bytes):
    """Replace one line of a file."""

    def apply(folder: Path) -> None:
        lines = (folder / name).read_bytes().splitlines()
        lines[number - 1] = line if isinstance(line, bytes) else line.encode()
        (folder / name).write_bytes(b"\n".join(lines) + b"\n")

    return apply


MISTAKES = {
    "no columns": (
        "csv",
        change("devset.csv", 1, "a,b"),
        r"devset.csv:1: expected a header with the column 'mr', found",
    ),
    "no ref": ("csv", change("testset_w_refs.csv", 1, "mr,text"), r"testset_w_refs.csv:1: .* column 'ref'"),
    "short row": ("csv", change("devset.csv", 3, "name[X]"), r"devset.csv:3: expected 2 columns, found 1"),
    "no slots": (
        "csv",
        change("devset.csv", 3, "Blue Spice,A pub ."),
        r"devset.csv:3: expected slots such as name\[X\]",
    ),
    "half a slot": ("csv", change("devset.csv", 3, '"name[X], near[Y",A .'), r"devset.csv:3: expected slots"),
    "no text": ("csv", change("devset.csv", 3, '"name[X]"," "'), r"devset.csv:3: the sentence is empty"),
    "open quote": ("csv", change("devset.csv", 3, '"name[X]","A'), r"devset.csv:\d+: not CSV"),
    "not UTF-8": ("csv", change("devset.csv", 3, b"name[X],caf\xe9"), r"devset.csv:3: not UTF-8 \(byte 0xe9\)"),
    "no file": ("csv", lambda folder: (folder / "devset.csv").unlink(), r"devset.csv: cannot be read"),
    "no bars": (
        "text",
        change("valid.txt", 2, "name : X | near : Y"),
        r"valid.txt:2: expected a meaning representation, \|\|",
    ),
    "no colon": ("text", change("valid.txt", 2, "name X||A pub . "), r"valid.txt:2: expected slots such as name : X"),
    "no rows": ("text", lambda folder: (folder / "test.txt").write_text(""), r"E2E test has no rows"),
    "nothing": ("text", lambda folder: [file.unlink() for file in folder.iterdir()], r"has neither trainset.csv"),
    "no folder": ("text", shutil.rmtree, r"does not exist; name the folder that holds trainset.csv"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_with_its_place(mistake, tmp_path):
    form, spoil, message = MISTAKES[mistake]
    folder = {"csv": csv_folder, "text": text_folder}[form](tmp_path / "data")
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        FolderSource(folder).load(TASK)
    assert "\n" not in str(caught.value)


CODE = """
from modules.benchmarks.e2e import E2E, TASK
from modules.benchmarks.e2e.sources import HubSource
source = HubSource()
splits = source.load(TASK)
print(json.dumps([source.name, source.hash(TASK), source.sizes]), E2E.hub_cached())
attempt(HubSource("tiny/nosuch").load, TASK)
attempt(HubSource("tiny/other").load, TASK)
"""


def as_parquet(columns: tuple[str, str]) -> dict[str, bytes]:
    import datasets

    files = {}
    for split, rows in pairs().items():
        table = {
            columns[0]: [LINEARISATIONS["challenge"](slots) for slots, _ in rows],
            columns[1]: [t for _, t in rows],
        }
        datasets.Dataset.from_dict(table).to_parquet(buffer := io.BytesIO())
        files[f"default/{split}/0000.parquet"] = buffer.getvalue()
    data_files = [{"split": split, "path": f"default/{split}/*"} for split in pairs()]
    files["README.md"] = (
        f"---\nconfigs: {json.dumps([{'config_name': 'default', 'data_files': data_files}])}\n---\n".encode()
    )
    return files


@pytest.mark.slow
def test_the_hub(tmp_path):
    """The converted branch of the real repository's layout; then from the cache, with the server gone."""
    repos = {
        ("datasets", REPO): as_parquet(("meaning_representation", "human_reference")),
        ("datasets", "tiny/other"): as_parquet(("mr", "text")),
    }
    with HubServer(repos, revision=REVISION) as server:
        online = in_new_process(CODE, server.url, tmp_path)
        commit = server.commit(("datasets", REPO))
    local = FolderSource(csv_folder(tmp_path / "csv"))
    local.load(TASK)
    name, content, sizes = json.loads(online[0].rpartition(" ")[0])
    assert (name, content, sizes) == (f"{REPO}@{commit[:8]}", local.hash(TASK), local.sizes)
    errors = [json.loads(line)[0] for line in online[1:]]
    assert errors[0].startswith("data set 'tiny/nosuch' cannot be loaded") and "no column 'meaning_repr" in errors[1]
    offline = in_new_process(CODE.split("attempt")[0], server.url, tmp_path)
    assert offline[0].rpartition(" ")[0] == online[0].rpartition(" ")[0]
