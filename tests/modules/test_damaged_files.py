"""Damaged files of every kind: each mutation is taken, or refused by one line; see `tests/support/survey.py`.

MUTATIONS=1000 pytest tests/modules/test_damaged_files.py -m slow -s
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from modules.benchmarks.base import benchmark
from modules.benchmarks.recipes import load_file as load_recipes
from modules.embedded import ROBERTA
from modules.paths import CONFIGS, PUBLISHED
from modules.runs.results import ResultStore
from tests.support.mutate import json_bytes, mutated, mutated_bytes, mutated_tensors, yaml_bytes
from tests.support.results import run as result_of
from tests.support.survey import survey
from variants.errors import UserError

pytestmark = pytest.mark.slow
GLUE = benchmark("glue")


def of_text(path: Path, sources: list[bytes], parse: Callable[[bytes], Any] | None = None, write=yaml_bytes):
    """A writer of mutations of some texts: of their bytes, or, with `parse`, as often of their structure."""

    def write_one(draw) -> None:
        data = draw.choice(sources)
        if parse and draw.random() < 0.5:
            with contextlib.suppress(yaml.YAMLError):  # what no file can hold
                data = write(mutated(parse(data), draw))
        path.write_bytes(data if draw.random() < 0.3 and parse else mutated_bytes(data, draw))

    return write_one


def in_yaml(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.yaml"))]


def test_recipes(tmp_path):
    from modules.experiments.plan import make_plan
    from modules.experiments.wishes import Wishes
    from variants.registry import BUILT_IN, resolve

    path = tmp_path / "recipe.yaml"
    sources = [(CONFIGS / "glue/embedded/embedded.yaml").read_bytes(), *in_yaml(CONFIGS / "glue")]

    def read() -> None:
        content = load_recipes(path, GLUE)
        variant = next((name for name in content.variants if name in BUILT_IN), "lora")  # --variant names it
        wishes = Wishes(benchmark=GLUE, variant=variant, preset=str(path), model="embedded", tasks=["rte"])
        make_plan(wishes, resolve(variant))

    survey(of_text(path, sources, yaml.safe_load), read, tmp_path).settle()


def test_comparisons(tmp_path):
    from modules.comparison.comparison import Comparison
    from modules.comparison.file import read as read_comparison
    from modules.experiments.wishes import Wishes

    path = tmp_path / "plan.yaml"

    def read() -> None:
        content = read_comparison(path)
        wishes = Wishes(benchmark=benchmark(content.benchmark), model="embedded", results_dir=str(tmp_path / "out"))
        if any(":" in (entry.variant or "") for entry in content.variants.values()):
            raise UserError("a comparison names a method of one's own by its file (docs/invent.md): not run here")
        comparison = Comparison(path, content, wishes)
        for row in comparison.rows()[:2]:
            comparison.runs(row, {each.key: each.examples[0] for each in row.space}, tuning=row.space != ())

    sources = [path.read_bytes() for path in sorted((CONFIGS / "compare").glob("*.yaml"))]
    survey(of_text(path, sources, yaml.safe_load), read, tmp_path).settle()


def test_flags_in_a_file(tmp_path):
    from modules.experiments.config_files import expanded
    from modules.experiments.flags import make_parser
    from modules.experiments.wishes import Wishes
    from variants.registry import BUILT_IN, resolve

    path = tmp_path / "flags.yaml"
    flags = {
        "variant": "lora", "r": 8, "alpha": 16, "tasks": ["rte", "mrpc"], "seeds": [0, 1], "lr": 1e-3, "epochs": 3,
        "trainer": {"devices": 1, "precision": "bf16-mixed"}, "per_layer": {"*query": {"r": 4}}, "plan": True,
        "budget": "0.3M", "preset": "default", "wandb": "off", "results_dir": "~/x", "warmup_ratio": 0.06,
    }  # fmt: skip

    def read() -> None:
        argv = expanded(["--config", str(path)])
        name = next((word.partition("=")[2] for word in argv if word.startswith("--variant=")), "lora")
        cls = resolve(name if name in BUILT_IN else "lora")
        Wishes.of(make_parser(cls, GLUE).parse_args(argv), GLUE, cls)

    survey(of_text(path, [yaml_bytes(flags)], yaml.safe_load), read, tmp_path).settle()


def test_published_figures(tmp_path):
    from modules.reports.papers.paper_tables import paper_tables
    from modules.reports.tables.published import load_all

    folder = tmp_path / "published"
    shutil.copytree(PUBLISHED, folder)
    files = sorted(PUBLISHED.glob("*.yaml"))
    (folder / files[0].name).unlink()

    def write(draw) -> None:
        for file in files:
            shutil.copy(file, folder / file.name)
        chosen = draw.choice(files)
        of_text(folder / chosen.name, [chosen.read_bytes()], yaml.safe_load)(draw)

    def read() -> None:
        load_all(folder)
        paper_tables(folder, [])

    survey(write, read, tmp_path).settle()


def test_result_files(tmp_path):
    """One damaged file is left out, and the tables of its folder are built (a deep one ended them as if by Ctrl-C)."""
    from modules.reports.rebuild import rebuild

    store = ResultStore(tmp_path / "results")
    for seed in range(2):
        store.write(result_of(seed=seed, task="rte"))
    whole = result_of(seed=2, task="rte")
    source = store.write(whole).read_bytes()

    def write(draw) -> None:
        of_text(store.path(whole.id), [source], json.loads, json_bytes)(draw)

    def read() -> None:
        rebuild([store.root], plots=False)
        assert not list(store.runs.glob("*.corrupt-*")), "only reads"
        assert "| lora" in (store.root / "tables" / "glue.md").read_text()

    found = survey(write, read, tmp_path)
    assert not found.faults and not found.code_ran, "\n".join(found.faults[:5])


def test_configurations_of_runs(tmp_path):
    from modules.runs.config import RunConfig

    place = {"source": "folder", "name": "n", "spec": "s", "hash": "h"}
    config = RunConfig(
        "glue", "rte", "lora", {"r": 8}, "paper", 0, place, place, {"lr": 1e-3}, results_dir=str(tmp_path)
    )
    config.write()
    path = config.folder / "config.json"
    sources = [path.read_bytes()]
    id = config.id
    survey(
        of_text(path, sources, json.loads, json_bytes), lambda: RunConfig.read(str(tmp_path), id).id, tmp_path
    ).settle()


def test_model_folders(tmp_path, tiny_model):
    from modules.backbones.loading import load_backbone
    from modules.benchmarks.glue.tasks import TASKS

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(tiny_model / "model.safetensors")
    texts = [path for path in sorted(tiny_model.iterdir()) if path.suffix == ".json"]

    def write(draw) -> None:
        for path in tiny_model.iterdir():
            shutil.copy(path, folder / path.name)
        kind = draw.randrange(4)
        if kind == 0:
            save_file(mutated_tensors(tensors, draw), folder / "model.safetensors", {"format": "pt"})
        elif kind == 1:
            of_text(folder / "model.safetensors", [(tiny_model / "model.safetensors").read_bytes()])(draw)
        else:
            chosen = draw.choice(texts)
            of_text(folder / chosen.name, [chosen.read_bytes()], json.loads, json_bytes)(draw)

    def read() -> None:
        _, tokenizer, _ = load_backbone(folder, TASKS["rte"])
        tokenizer(["a b"], ["c"], truncation=True, max_length=8)

    survey(write, read, tmp_path).settle()


def test_glue_files(tmp_path, tiny_tsv):
    from modules.benchmarks.glue.sources import FolderSource
    from modules.benchmarks.glue.tasks import TASKS

    folder = tmp_path / "glue"
    shutil.copytree(tiny_tsv, folder)
    files = [
        (name, tiny_tsv / part / "train.tsv") for name, part in (("rte", "RTE"), ("mrpc", "MRPC"), ("stsb", "STS-B"))
    ]
    chosen: list[str] = []

    def write(draw) -> None:
        name, source = draw.choice(files)
        chosen[:] = [name]
        for _, file in files:
            shutil.copy(file, folder / file.parent.name / file.name)
        of_text(folder / source.parent.name / source.name, [source.read_bytes()])(draw)

    survey(write, lambda: FolderSource(folder).load(TASKS[chosen[0]]), tmp_path).settle()


def test_e2e_files(tmp_path):
    from modules.benchmarks.e2e.sources import read_csv, read_text

    table, text = tmp_path / "trainset.csv", tmp_path / "train.txt"
    rows = [b'"name[The Eagle], food[French]",The Eagle serves French food.'] * 6
    lines = [b"name : The Eagle | Type : pub || The Eagle is a pub ."] * 6
    chosen: list[bool] = []

    def write(draw) -> None:
        chosen[:] = [draw.random() < 0.5]
        path, source = (table, [b"mr,ref", *rows]) if chosen[0] else (text, lines)
        of_text(path, [b"\n".join(source) + b"\n"])(draw)

    survey(write, lambda: read_csv(table, "train") if chosen[0] else read_text(text, "train"), tmp_path).settle()


def test_what_scorers_read(tmp_path):
    from modules.scores import check, files, mteval, ptb

    references, outputs = tmp_path / "references.txt", tmp_path / "outputs.csv"
    sources = {
        references: b"The Eagle is a pub.\nIt is a pub, the Eagle.\n\nFrench food at 5.\n",
        outputs: b'mr,output\na,"The Eagle, a pub."\nb,"Food, French"\n',
    }

    def write(draw) -> None:
        chosen = draw.choice(list(sources))
        for path, source in sources.items():
            path.write_bytes(mutated_bytes(source, draw) if path is chosen else source)

    def read() -> None:
        groups = files.read(references, outputs)
        check(*groups)
        mteval.bleu(*groups)
        ptb.captions(groups[0])

    survey(write, read, tmp_path).settle()


def test_text_to_pretrain_on_and_its_cache(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    from modules.pretraining.corpus import token_stream

    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(ROBERTA)
    text = tmp_path / "a.txt"
    source = "\n\n".join(f"document {number} says a word" for number in range(20)).encode()
    text.write_bytes(source)
    token_stream([str(text)], tokenizer, 1)
    (cache,) = (tmp_path / "cache").rglob("*.safetensors")
    kept = cache.read_bytes()

    def write(draw) -> None:
        text.write_bytes(source)
        cache.write_bytes(kept)
        target, data = draw.choice(((text, source), (cache, kept)))
        target.write_bytes(mutated_bytes(data, draw))

    def read() -> None:
        if len(token_stream([str(text)], tokenizer, 1)["train"]) > 10_000_000:
            raise AssertionError("more tokens than text")

    survey(write, read, tmp_path).settle()


def test_checkpoints(tmp_path):
    """One that is damaged is moved aside, and the run begins anew; none is taken up that is not as it was written."""
    from torch import nn

    from modules.training.checkpoint import PARTS, usable

    module, path = nn.Linear(2, 2), tmp_path / "last.ckpt"
    state = {part: {} for part in PARTS} | {"state_dict": module.state_dict(), "epoch": 1}
    torch.save(state, path)
    source = path.read_bytes()

    def write(draw) -> None:
        for file in tmp_path.glob("last.ckpt*"):
            file.unlink()
        of_text(path, [source])(draw)

    def read() -> None:
        if usable(path, module, "a run"):
            found = torch.load(path, weights_only=True)["state_dict"]
            assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())

    found = survey(write, read, tmp_path)
    assert not found.faults and not found.code_ran, "\n".join(found.faults[:5])
