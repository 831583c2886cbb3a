"""Sources of instruction data: known sets in a folder, own files, the generator."""

import json
import os

import pytest

from modules.benchmarks.instruct import INSTRUCT
from modules.benchmarks.instruct.sources import EmbeddedSource, FolderSource, OwnSource, examples_in
from modules.benchmarks.instruct.tasks import ARITHMETIC, COMMONSENSE, SKILLS
from tests.support.hub_server import HubServer
from tests.support.processes import run as in_new_process
from variants.errors import UserError

REAL = os.environ.get("LLM_DATA_DIR", "")
ROWS = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(20)]


def written(folder, name, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def test_what_a_folder_lacks_is_named_and_not_scored(tmp_path):
    row = {
        "instruction": "Which?\n\nAnswer format: true/false",
        "output": "the correct answer is true",
        "answer": "true",
    }
    written(tmp_path / "boolq", "train.json", [row | {"instruction": f"{n}: {row['instruction']}"} for n in range(40)])
    written(tmp_path / "piqa", "test.json", [row] * 3)
    source = FolderSource(str(tmp_path))
    splits = source.load(COMMONSENSE)
    assert {name: len(split) for name, split in splits.items()} == {"train": 38, "validation": 2, "test": 3}
    assert {e.part for e in examples_in(splits["test"])} == {"piqa"}
    assert examples_in(splits["train"])[0].options == ("true", "false")
    subset, unscored = source.notes["commonsense"]
    assert subset.startswith("trained on a SUBSET: no training rows of PIQA") and "test rows: BoolQ" in unscored


def test_nothing_is_trained_on_that_is_asked_in_a_test(tmp_path):
    rows = [{"instruction": f"How much is {n} + 1?", "output": "", "answer": str(n + 1)} for n in range(30)]
    written(tmp_path / "math", "train.json", rows)
    shouted = [{**row, "instruction": f" {row['instruction'].upper()}\n"} for row in rows[:12]]
    written(tmp_path / "AddSub", "test.json", shouted)
    source = FolderSource(str(tmp_path))
    splits = source.load(ARITHMETIC)
    asked = {e.prompt.strip().lower() for e in examples_in(splits["test"])}
    learnt = examples_in(splits["train"]) + examples_in(splits["validation"])
    assert len(learnt) == 18 and not asked & {e.prompt.lower() for e in learnt}
    assert learnt[0].response == learnt[0].answer, "a row without worked answer says the short one"
    assert "not trained on, as they are test rows too: 12 of LLM-Adapters' math_data" in source.notes["arithmetic"]


def test_a_set_of_all_training_rows_stands_in_for_its_parts(tmp_path):
    row = {"instruction": "Which?\n\nAnswer format: a/b", "output": "the correct answer is a", "answer": "a"}
    written(
        tmp_path, "commonsense_170k.json", [{**row, "instruction": f"{n}? {row['instruction']}"} for n in range(40)]
    )
    written(tmp_path / "boolq", "train.json", [row] * 40)
    for part in COMMONSENSE.parts:
        written(tmp_path / part.folder, "test.json", [row])
    source = FolderSource(str(tmp_path))
    splits = source.load(COMMONSENSE)
    assert not source.notes["commonsense"], "nothing lacks"
    assert {e.part for e in examples_in(splits["train"])} == {"commonsense_170k"} and len(splits["test"]) == 8


def test_own_rows_are_cut_the_same_way_every_time(tmp_path):
    path = written(tmp_path, "my.json")
    given = {"data": str(path), "dev_share": "0.25", "split_seed": "3"}
    (task,) = INSTRUCT.on(given).tasks.values()
    first, second = (OwnSource(given).load(task) for _ in range(2))
    assert first == second and len(first["validation"]) == 5 and len(first["train"]) == 15
    other = OwnSource(given | {"split_seed": "4"}).load(task)
    assert other["validation"] != first["validation"]


def test_own_dev_and_test_files_are_taken(tmp_path):
    written(tmp_path, "train.json"), written(tmp_path, "dev.json", ROWS[:2]), written(tmp_path, "test.json", ROWS[:1])
    source = OwnSource({"data": str(tmp_path)})
    (task,) = INSTRUCT.on({"data": str(tmp_path)}).tasks.values()
    assert {name: len(split) for name, split in source.load(task).items()} == {"train": 20, "validation": 2, "test": 1}
    assert "2 of 2 rows of validation are rows of train too" in source.notes[task.name]


def test_several_files_of_a_split_are_read_one_after_the_other(tmp_path):
    for number, rows in enumerate((ROWS[:12], ROWS[12:])):
        written(tmp_path / "data", f"train-0000{number}-of-00002.json", rows)
    source = OwnSource({"data": str(tmp_path)})
    (task,) = INSTRUCT.on({"data": str(tmp_path)}).tasks.values()
    splits = source.load(task)
    assert (len(splits["train"]), len(splits["validation"])) == (18, 2)
    assert {e.response for split in splits.values() for e in examples_in(split)} == {row["output"] for row in ROWS}


@pytest.mark.slow
def test_a_data_set_of_the_hub(tmp_path):
    """From a server here, by the real client, in a process of its own: the client reads its address once."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    repos = {("datasets", "tiny/mine"): {"train.jsonl": lines, "test.jsonl": lines}}
    code = """
from modules.benchmarks.instruct import INSTRUCT
from modules.benchmarks.instruct.sources import OwnSource
from variants.errors import UserError

for name in ("tiny/mine", "tiny/gone"):
    (task,) = INSTRUCT.on({"data": name}).tasks.values()
    try:
        source = OwnSource({"data": name})
        print({split: len(rows) for split, rows in source.load(task).items()}, source.notes[task.name][0])
    except UserError as error:
        print(error)
"""
    with HubServer(repos) as server:
        said = in_new_process(code, server.url, tmp_path)
    assert said[0] == "{'train': 18, 'validation': 2, 'test': 20} form of the rows: instruction and output"
    assert said[1].startswith("--data tiny/gone: cannot be loaded") and len(said) == 2


def test_flags_that_do_not_fit_are_one_line(tmp_path):
    with pytest.raises(UserError, match="--dev belongs to your own data: name them by --data"):
        INSTRUCT.on({"dev": "a.json"})
    given = {"data": str(tmp_path / "no.json")}
    (task,) = INSTRUCT.on(given).tasks.values()
    with pytest.raises(UserError, match="there is no such file or folder"):
        OwnSource(given).load(task)


def test_the_generated_task_has_all_its_parts():
    splits = EmbeddedSource().load(SKILLS)
    assert {e.part for e in examples_in(splits["test"])} == {part.name for part in SKILLS.parts}


@pytest.mark.skipif(not REAL, reason="LLM_DATA_DIR names no folder with the real sets")
def test_the_real_sets_are_read():
    source = FolderSource(REAL)
    splits = source.load(COMMONSENSE)
    examples = examples_in(splits["test"])
    assert len(splits["train"]) > 15_000 and {"boolq", "arc_e", "winogrande"} <= {e.part for e in examples}
    assert all(e.answer in e.options for e in examples)
    source.load(ARITHMETIC)
    assert source.sizes["arithmetic"]["train"] > 7_000, "GSM8K's rows; LLM-Adapters' math set is made of test rows"
    assert "3,260 of LLM-Adapters' math_data" in " ".join(source.notes["arithmetic"])
