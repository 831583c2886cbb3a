"""A model folder whose configuration no model can be made of is refused before memory is taken, and runs no code."""

from __future__ import annotations

import json
import shutil

import pytest

from modules.backbones.loading import load_backbone, shapes_only
from modules.benchmarks.glue.tasks import TASKS
from variants.errors import UserError

REMOTE = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M", "AutoTokenizer": ["evil.T", None]}


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A model folder of one's own; the function changes its config.json."""
    shutil.copytree(tiny_model, tmp_path / "model")

    def change(**changes):
        path = tmp_path / "model" / "config.json"
        path.write_text(json.dumps(json.loads((tiny_model / "config.json").read_text()) | changes))
        return tmp_path / "model"

    return change


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 2**63}, "num_hidden_layers is not a finite number, or too large a one"),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers must lie between 0 and 1,024, not 100000"),
        ({"num_attention_heads": -2}, "num_attention_heads must lie between 0"),
        ({"head_dim": -4}, "head_dim must lie between 0"),
        ({"num_labels": 2**31}, "num_labels must lie between 0 and 100,000"),
        ({"vocab_size": 2**30}, "they do not belong together"),
        ({"text_config": {"n_layer": 10**6}}, "text_config: n_layer must lie between 0 and 1,024"),
        ({"num_attention_heads": 0}, "cannot be loaded: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_sizes_that_no_model_has(folder, changes, says):
    with pytest.raises(UserError, match=says) as caught:
        load_backbone(folder(**changes), TASKS["rte"])
    assert "\n" not in str(caught.value)


def test_code_of_a_model_folder_is_never_run(folder, tmp_path, monkeypatch):
    """transformers asks [y/N] on standard input where trust_remote_code is left unset, and runs the code on y."""
    monkeypatch.chdir(tmp_path)
    place = folder(model_type="evil", auto_map=REMOTE)
    (place / "evil.py").write_text("open('code_ran', 'w').close()\nfrom transformers import RobertaConfig as C\n")
    for load in (lambda: load_backbone(place, TASKS["rte"]), lambda: shapes_only(place, "AutoModel")):
        with pytest.raises(UserError, match=r"code of its own \(auto_map\), which is never run"):
            load()
    folder(auto_map=REMOTE)  # of a type that transformers knows: its own class is taken
    load_backbone(place, TASKS["rte"])
    assert not (tmp_path / "code_ran").exists()


def test_a_damaged_tokenizer_is_one_line(folder):
    place = folder()
    content = json.loads((place / "tokenizer.json").read_text())
    for damaged in (content | {"model": None}, content | {"added_tokens": [{"id": -1}]}, {}, []):
        (place / "tokenizer.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match="cannot be loaded"):
            load_backbone(place, TASKS["rte"])
