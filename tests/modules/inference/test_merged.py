"""A run as one plain folder: transformers' own pipeline prints the task's labels."""

import shutil

import pytest
from transformers import pipeline

from modules import predict
from variants import merge
from variants.errors import VariantError


class Entry:
    """An entry point, as an installed package declares one."""

    name = "embedded"

    def load(self):
        from modules.embedded import folder_of

        return folder_of


@pytest.mark.parametrize("task, row", [("rte", ("1 2 3", "number")), ("mnli", ("RTE", "4 4"))])
def test_a_pipeline_prints_the_tasks_labels(task, row, runs, tmp_path, capsys):
    assert merge.main([str(runs[task].folder / "best"), "--out", str(tmp_path / "merged")]) == 0  # the base by its file
    said = pipeline("text-classification", str(tmp_path / "merged"), device="cpu")(
        {"text": row[0], "text_pair": row[1]}
    )
    (wanted,) = predict(runs[task], [row]).to_dict("records")
    assert said["label"] == wanted["label"] and said["score"] == pytest.approx(wanted["probability"], abs=1e-4)


def test_a_score_stays_a_score(runs, tmp_path):
    merge.merge(runs["stsb"].folder / "best", None, tmp_path / "merged")
    plain = pipeline("text-classification", str(tmp_path / "merged"), device="cpu")
    said = plain({"text": "1", "text_pair": "2"}, function_to_apply="none")
    assert plain.model.config.problem_type == "regression"
    assert said["score"] == pytest.approx(predict(runs["stsb"], [("1", "2")])["score"][0], abs=1e-4)


def test_embedded_is_the_small_model_of_the_architecture(runs, tmp_path, monkeypatch, capsys):
    from modules import train
    from modules.embedded import GPT2, ROBERTA, folder_of
    from variants import base_model

    assert (folder_of("roberta"), folder_of("gpt2")) == (ROBERTA, GPT2)
    monkeypatch.setattr(base_model, "entry_points", lambda group: [Entry()] if group == "lora_variants.models" else [])
    options = {"model": "embedded", "results_dir": tmp_path / "results", "wandb": "off", "epochs": 1, "progress": False}
    run = train("head", task="rte", trainer={"accelerator": "cpu", "limit_train_batches": 2}, **options)
    for words in (["--model", "embedded"], []):
        assert merge.main([str(run.folder / "best"), *words, "--out", str(tmp_path / "merged")]) == 0
        said = pipeline("text-classification", str(tmp_path / "merged"), device="cpu")("A town .")
        assert said[0]["label"] in ("entailment", "not_entailment")
        shutil.rmtree(tmp_path / "merged")


def test_a_file_that_names_no_base_needs_one(runs, tmp_path):
    import json

    adapter = shutil.copytree(runs["rte"].folder / "best", tmp_path / "adapter")
    notes = json.loads((adapter / "adapter.json").read_text())
    del notes["backbone"]
    (adapter / "adapter.json").write_text(json.dumps(notes))
    with pytest.raises(VariantError, match="does not name its base model"):
        merge.merge(adapter, None, tmp_path / "merged")
