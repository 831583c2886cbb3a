"""Fixtures that several test files share: a tiny model folder, tiny official-looking TSV folders, quiet processes."""

import gc
import json
import os
import random
from pathlib import Path

import pytest
import torch

from tests.support.loopback_slurm import why_not

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
gc.set_threshold(50_000, 20, 20)  # a look through all that is imported takes half a second
torch.set_num_threads(1)  # tiny models: several threads only wait for each other

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports it: kernels are carried out in Python

ROOT = Path(__file__).resolve().parents[1]
TRAIN, DEV = 45, 11  # neither is a multiple of the batch size, nor of two processes


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Tests of a folder of accelerations go with the folder: ``tests/variants/acceleration`` with ``variants/...``."""
    if collection_path.is_dir() and collection_path.name == "acceleration":
        source = ROOT / collection_path.relative_to(ROOT / "tests")
        return True if not (source / "__init__.py").is_file() else None
    return None


def pytest_collection_finish() -> None:
    """What has been imported stays: no collection of garbage needs to look through it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of acceleration folders; skip those for a GPU, or for SLURM, where there is none. SLURM's take
    minutes and have to be asked for."""
    no_slurm = why_not() if "slurm" in config.option.markexpr else "pytest -m slurm does so"
    for item in items:
        if "acceleration" in item.path.relative_to(ROOT).parts:
            item.add_marker("acceleration")
        if gpu := item.get_closest_marker("gpu"):
            many = gpu.kwargs.get("devices", 1)
            if torch.cuda.device_count() < many:
                needs = "a GPU" if many == 1 else f"{many} GPUs"
                item.add_marker(pytest.mark.skip(reason=f"needs {needs}: {gpu.args[0]}"))
        if no_slurm and item.get_closest_marker("slurm"):
            item.add_marker(pytest.mark.skip(reason=f"needs a SLURM to start: {no_slurm}"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers of ``-n auto``: one more than cores, since many tests wait for processes that they started."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True, scope="module")
def whats_there_stays():
    """As at the start, for what the tests of the last file have imported: `gc.collect()` takes half a second else."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Tests neither read nor fill the person's cache of tokens and hashes."""
    os.environ["LORA_VARIANTS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a random RoBERTa of width 16, dropout off, and its tokenizer."""
    from tests.support.hub_server import tiny_roberta

    folder = tmp_path_factory.mktemp("models") / "tiny-roberta"
    folder.mkdir()
    for name, content in tiny_roberta().items():
        (folder / name).write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_tsv(tmp_path_factory) -> Path:
    """A folder of TSV files in GLUE's layout: RTE, MRPC, STS-B and MNLI with rows of uneven lengths."""
    root = tmp_path_factory.mktemp("tsv")
    draw = random.Random(0)
    words = ("RTE", "MRPC", "sentence1", "sentence2", "number", "premise", *"1234567")

    def text() -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(1, 9)))

    def write(name: str, header: str, row) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        rows = [row(i) for i in range(DEV if "dev" in name else TRAIN)]
        (root / name).write_text("\n".join([header, *rows]) + "\n")

    entailment = ("entailment", "not_entailment")
    for split in ("train", "dev"):
        write(f"RTE/{split}.tsv", "index\tsentence1\tsentence2\tlabel",
              lambda i: f"{i}\t{text()}\t{text()}\t{entailment[i % 2]}")  # fmt: skip
        write(f"MRPC/{split}.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
              lambda i: f"{i % 2}\t1\t2\t{text()}\t{text()}")  # fmt: skip
        write(f"STS-B/{split}.tsv", "index\tsentence1\tsentence2\tscore",
              lambda i: f"{i}\t{text()}\t{text()}\t{i % 6}")  # fmt: skip
    labels = ("entailment", "neutral", "contradiction")
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(f"MNLI/{name}.tsv", "index\tsentence1\tsentence2\tgold_label",
              lambda i: f"{i}\t{text()}\t{text()}\t{labels[i % 3]}")  # fmt: skip
    return root


@pytest.fixture
def in_this_process(monkeypatch):
    """Commands carry their runs out here: quicker, where a process for each worker is not the point."""
    from modules.launch import worker

    monkeypatch.setattr(
        "modules.launch.jobs.launch.run_workers", lambda ids, folder, *_, **__: worker.main([folder, *ids])
    )


@pytest.fixture
def command(tiny_model, tiny_tsv, tmp_path):
    """The flags of a small run: ``[*command, "--variant", "head"]``."""
    return [
        *("--model", str(tiny_model), "--data_dir", str(tiny_tsv), "--results_dir", str(tmp_path / "results")),
        *("--wandb", "off", "--batch_size", "8", "--epochs", "2", "--seeds", "0", "--tasks", "rte"),
        *("--trainer.accelerator", "cpu"),
    ]
