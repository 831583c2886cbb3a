"""Backbones and data from the Hub; its libraries talk to a server on this machine."""

import dataclasses
import json
import socket
import time

import pytest

from modules.backbones.loading import load_backbone
from modules.benchmarks.glue.tasks import TASKS
from tests.support.hub_server import HubServer, tiny_glue
from tests.support.processes import run

LOAD = """
import hashlib
model, tokenizer, backbone = load_backbone("tiny/roberta", TASKS["mnli"], 3)
print(backbone.name, backbone.kind, backbone.hash)
print(hashlib.sha256(model.classifier.dense.weight.detach().numpy().tobytes()).hexdigest(), len(tokenizer))
source = HubSource()
for task in map(TASKS.get, ["cola", "stsb", "mnli", "rte"]):  # one text, a score, two dev splits, two texts
    splits = source.load(task)
    rows = {name: [split.texts[:2], split.labels[:3], len(split)] for name, split in splits.items()}
    print(json.dumps([task.name, source.kind, source.name, source.hash(task), rows]))
rte = TASKS["rte"]
print(hub_cached("tiny/roberta", GLUE_REPO, ["cola", "mnli"]), hub_cached("tiny/other"))
print(hub_cached(None, "a/b", ["rte"]), hub_cached(None, GLUE_REPO, TASKS))
attempt(load_backbone, "tiny/nosuch", rte)
attempt(HubSource("tiny/nosuch").load, rte)
attempt(load_backbone, "tiny/empty", rte)
attempt(HubSource("tiny/turned").load, rte)
"""


IMPATIENT = """
import sys
from modules import hub
from modules.processes import leave
sys.stderr = sys.stdout
hub.SILENCE = 1.2
print(load_backbone("tiny/roberta", TASKS["mnli"])[2].hash)
leave(0)
"""


@pytest.mark.slow
def test_hub(tmp_path, roberta, folder):
    turned = dataclasses.replace(TASKS["rte"], labels=TASKS["rte"].labels[::-1])
    repos = {
        ("models", "tiny/roberta"): roberta,
        ("models", "tiny/empty"): {"README.md": b"nothing"},
        ("datasets", "nyu-mll/glue"): tiny_glue(),
        ("datasets", "tiny/turned"): tiny_glue([turned]),
    }
    with HubServer(repos) as server:
        online = run(LOAD, server.url, tmp_path)
        commit = server.commit(("datasets", "nyu-mll/glue"))
    # The server is gone: the caches give the same, without waiting for anybody's retries.
    down = run(LOAD.split("attempt")[0], server.url, tmp_path)
    assert online[: len(down)] == down and len(down) == 8
    # One that falls silent is done without, where the cache has all.
    with HubServer(repos, silent=True) as server:
        *said, silent = run(IMPATIENT, server.url, tmp_path)
    assert silent == down[0].split()[-1] and any("the copy in the local cache is used" in line for line in said)

    _, _, local = load_backbone(folder, TASKS["mnli"], 3)
    assert online[0] == f"tiny/roberta hub {local.hash}"
    for line, task in zip(online[2:6], map(TASKS.get, ("cola", "stsb", "mnli", "rte")), strict=True):
        name, kind, shown, _, rows = json.loads(line)
        assert (name, kind, shown) == (task.name, "hub", f"nyu-mll/glue@{commit[:8]}")
        texts = [[f"{task.title} {field} number {i}" for field in task.fields] for i in range(2)]
        labels = [0.0, 0.5, 1.0] if task.kind == "score" else [i % task.num_labels for i in range(3)]
        assert rows == {"train": [texts, labels, 10], **dict.fromkeys(task.eval_splits, [texts, labels, 5])}
    assert online[6:8] == ["True False", "False False"]
    errors = [json.loads(line)[0] for line in online[8:]]
    assert errors[0] == "model 'tiny/nosuch' is not a local folder, and the Hub has no such model"
    assert errors[1].startswith("data set 'tiny/nosuch' (rte) cannot be loaded: DatasetNotFoundError")
    assert "tiny/empty" in errors[2]
    assert errors[3].endswith("labels are ('not_entailment', 'entailment'), expected ('entailment', 'not_entailment')")
    assert not any("\n" in error for error in errors)


@pytest.mark.slow
def test_hub_down_and_nothing_cached(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        code = "attempt(load_backbone, 'tiny/roberta', TASKS['rte'])\nattempt(HubSource().load, TASKS['rte'])"
        lines = run(code, endpoint, tmp_path)
    for line, what in zip(lines, ("model 'tiny/roberta'", "data set 'nyu-mll/glue'"), strict=True):
        message, seconds = json.loads(line)
        assert message.startswith(f"the Hub ({endpoint}) cannot be reached and {what} is not in the local cache")
        assert "\n" not in message and seconds < 5


@pytest.mark.slow
def test_hub_that_never_answers(tmp_path):
    with HubServer({}, mute=True) as server:
        (line,) = run("attempt(load_backbone, 'tiny/roberta', TASKS['rte'])", server.url, tmp_path)
    message, seconds = json.loads(line)
    assert "cannot be reached" in message and seconds < 5


SILENT = """
import sys
from modules import hub
from modules.processes import leave
sys.stderr = sys.stdout
hub.SILENCE, hub.WORD = 1.2, 0.5
attempt(load_backbone, 'tiny/roberta', TASKS['rte'])
attempt(HubSource().load, TASKS['rte'])
leave(0)
"""


@pytest.mark.slow
def test_a_hub_that_falls_silent_after_the_probe(tmp_path):
    """Fault B9: a word of what is waited for, a bounded wait, one line, and an end that waits for no thread."""
    start = time.monotonic()
    with HubServer({}, silent=True) as server:
        lines = run(SILENT, server.url, tmp_path)
    for what in ("model 'tiny/roberta'", "data set 'nyu-mll/glue'"):
        assert any(line.startswith("waiting for the Hub (") and f"nothing of {what} has come" in line for line in lines)
    errors = [json.loads(line) for line in lines if line.startswith("[")]
    assert "fallen silent over model" in errors[0][0] and "fallen silent over data set" in errors[1][0]
    assert all(seconds < 8 for _, seconds in errors) and time.monotonic() - start < 40
