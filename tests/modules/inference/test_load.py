"""A run's model, loaded from what its files say alone."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules import RunResult, load_run, predict
from modules.benchmarks.glue.sources import FolderSource
from modules.benchmarks.glue.tasks import TASKS
from modules.runs.results import ResultStore
from variants.errors import UserError


def dev(tiny_tsv, task: str):
    return FolderSource(str(tiny_tsv)).load(TASKS[task])


@pytest.mark.parametrize("task", ["rte", "mnli", "stsb"])
def test_what_it_says_of_the_dev_set_is_what_the_result_file_counts(task, runs, tiny_tsv):
    splits, run = dev(tiny_tsv, task), runs[task]
    rows = [row for name in TASKS[task].eval_splits for row in splits[name].texts]
    truth = [label for name in TASKS[task].eval_splits for label in splits[name].labels]
    said = predict(run, rows)
    assert list(said.columns[: len(rows[0])]) == list(TASKS[task].fields)
    if task == "stsb":
        found = torch.corrcoef(torch.tensor([said["score"].tolist(), [float(t) for t in truth]]).double())[0, 1].item()
        assert found == pytest.approx(run.best["pearson"], abs=1e-5)
    else:
        assert set(said["label"]) <= set(TASKS[task].labels)
        hits = [label == TASKS[task].labels[number] for label, number in zip(said["label"], truth, strict=True)]
        assert sum(hits) / len(hits) == pytest.approx(run.best["accuracy"], abs=1e-9)
        assert ((said["probability"] >= 1 / len(TASKS[task].labels)) & (said["probability"] <= 1)).all()


def test_a_run_is_named_by_its_result_its_id_its_folder_its_file_or_an_adapter_anywhere(runs, tmp_path, monkeypatch):
    run, results_dir = runs["rte"], runs["rte"].folder.parents[1]
    copy = shutil.copytree(run.folder / "best", tmp_path / "elsewhere")  # nothing of the run is beside it
    monkeypatch.chdir(tmp_path)
    file = run.folder.with_suffix(".json")
    weights = []
    for place in (run, run.folder, str(run.folder), run.folder / "best", file, copy):
        model, tokenizer = load_run(place)
        weights.append(model.classifier.out_proj.weight)
        assert model.config.id2label == {0: "entailment", 1: "not_entailment"} and not model.training
        assert tokenizer.model_max_length == 64 and tokenizer.padding_side == "right"
    weights.append(load_run(run.id, results_dir=results_dir)[0].classifier.out_proj.weight)
    weights.append(run.load()[0].classifier.out_proj.weight)
    assert all(torch.equal(weights[0], other) for other in weights)
    last = load_run(run, "last")[0].classifier.out_proj.weight
    assert torch.equal(last, load_file(run.folder / "last" / "adapter.safetensors")["classifier.out_proj.weight"])


def test_files_from_before_are_read_by_the_configuration_of_their_run(runs, tmp_path):
    for task in ("rte", "stsb"):
        old = tmp_path / "results" / "runs" / runs[task].id
        shutil.copytree(runs[task].folder, old)
        path = old / "best" / "adapter.json"
        notes = json.loads(path.read_text())
        for name in ("benchmark", "backbone", "problem_type", "num_labels", "labels", "inputs"):
            notes.pop(name)
        path.write_text(json.dumps(notes))
        rows = [("1 2", "3"), ("RTE", "number 4 5")]
        assert predict(old, rows).equals(predict(runs[task], rows))
    shutil.move(old / "best", tmp_path / "alone")
    with pytest.raises(UserError, match="does not name its base model"):
        load_run(tmp_path / "alone")


def test_another_base_is_refused_and_one_that_has_moved_is_named(runs, tiny_model, tmp_path):
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    adapter = shutil.copytree(runs["rte"].folder / "best", tmp_path / "adapter")
    notes = json.loads((adapter / "adapter.json").read_text())
    assert notes["backbone"]["spec"] == str(tiny_model.resolve()) and len(notes["backbone"]["hash"]) == 64
    notes["backbone"]["spec"] = str(tmp_path / "gone")
    (adapter / "adapter.json").write_text(json.dumps(notes))
    with pytest.raises(UserError, match=r"not in .*gone any more.*model="):
        load_run(adapter)
    load_run(adapter, model=moved)
    weights = load_file(moved / "model.safetensors")
    name = next(key for key in weights if key.endswith("word_embeddings.weight"))
    save_file(weights | {name: weights[name] + 1}, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="not those that the run started from"):
        load_run(adapter, model=moved)


def test_mistakes_are_one_line(runs, tmp_path):
    run = shutil.copytree(runs["rte"].folder, tmp_path / "results" / "runs" / runs["rte"].id)
    for place, words in ((tmp_path / "nothing", "there is no run"), (tmp_path, "is not the folder of a run")):
        with pytest.raises(UserError, match=words):
            load_run(place)
    with pytest.raises(UserError, match="which must be one of best, last"):
        load_run(run, "first")
    (run / "best" / "adapter.json").write_text("{")
    with pytest.raises(UserError, match="adapter.json"):
        load_run(run)
    (run / "best" / "adapter.json").write_text('{"backbone": {"name": 3}}')
    with pytest.raises(UserError, match="adapter.json"):
        load_run(run)
    whole = json.loads((runs["rte"].folder / "best" / "adapter.json").read_text())
    for name in ("benchmark", "task", "inputs"):
        (run / "best" / "adapter.json").write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(UserError, match=f"adapter.json.*{name}"):
            load_run(run)
    for inputs in ({}, {"fields": 5, "max_length": 8}, {"fields": ["a"], "max_length": "x"}):
        (run / "best" / "adapter.json").write_text(json.dumps(whole | {"inputs": inputs}))
        with pytest.raises(UserError, match="adapter.json: inputs"):
            load_run(run)
    shutil.rmtree(run / "best")
    with pytest.raises(UserError, match="not finished, or its adapters were not kept"):
        load_run(run)
    with pytest.raises(UserError, match="was not read from a results folder"):
        RunResult.from_json(runs["rte"].to_json()).load()
    for rows, words in (
        ("one", "takes 2 texts"),
        ([("a", "b", "c")], "not 3"),
        ([], "no text"),
        ([("a", 3)], "no text"),
        ([None], "not 1"),
        (5, "expected texts, not 5"),
    ):
        with pytest.raises(UserError, match=words):
            predict(runs["rte"], rows)
    with pytest.raises(UserError, match="no column 'sentence2'; it has sentence1, other"):
        predict(runs["rte"], {"sentence1": ["a"], "other": ["b"]})


def test_a_variant_from_outside_is_loaded_at_the_callers_word_alone(tmp_path, tiny_model, tiny_tsv):
    from modules import train

    path = tmp_path / "theirs.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom variants import LoRA\n\n@dataclass\nclass Theirs(LoRA):\n    pass\n"
    )
    options = {"model": tiny_model, "data_dir": tiny_tsv, "results_dir": tmp_path / "results", "wandb": "off"}
    run = train(f"{path}:Theirs", task="rte", epochs=1, batch_size=8, trainer={"accelerator": "cpu"}, **options)
    load_run(run)  # loaded in this process already
    notes = json.loads((run.folder / "best" / "adapter.json").read_text())
    other = shutil.copy(path, tmp_path / "moved.py")
    notes["variant"] = f"{tmp_path / 'not_here.py'}:Theirs"
    (run.folder / "best" / "adapter.json").write_text(json.dumps(notes))
    with pytest.raises(UserError, match="a file brings no code"):
        load_run(run)
    load_run(run, variant=f"{other}:Theirs")


def test_the_store_tells_a_result_where_it_is(runs):
    run = runs["rte"]
    read = ResultStore(run.folder.parents[1]).read(run.id)
    assert read == run and read.folder == run.folder and "_folder" not in json.loads(run.to_json())


def test_a_file_brings_no_benchmarks_code(runs, tmp_path, monkeypatch):
    """What names a file or module there is not loaded; classes are told all the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    adapter = shutil.copytree(runs["rte"].folder / "best", tmp_path / "adapter")
    notes = json.loads((adapter / "adapter.json").read_text())
    for name in (f"{tmp_path}/evil.py:X", "evil.py:X", "evil:X"):
        (adapter / "adapter.json").write_text(json.dumps(notes | {"benchmark": name}))
        assert predict(adapter, [("1", "2")]).equals(predict(runs["rte"], [("1", "2")]))
    assert not (tmp_path / "ran").exists()


def test_own_data_are_a_task_of_their_own_and_its_labels_are_said(tiny_model, tmp_path):
    from modules import train

    rows = [f"{'RTE' if k % 3 else 'number'} {k % 7},{'yes' if k % 3 else 'no'}" for k in range(60)]
    (tmp_path / "mine.csv").write_text("\n".join(["sentence,y", *rows]) + "\n")
    options = {"model": tiny_model, "results_dir": tmp_path / "results", "wandb": "off", "epochs": 1, "batch_size": 8}
    run = train("lora", data=tmp_path / "mine.csv", text="sentence", label="y", r=2, progress=False,
                trainer={"accelerator": "cpu"}, **options)  # fmt: skip
    assert isinstance(run, RunResult)
    said = predict(run, ["RTE 4", "number 3"])
    assert said.columns.tolist() == ["sentence", "label", "probability"] and set(said["label"]) <= {"yes", "no"}
