"""The analysis command: its tables hold what the adapters say, heat maps, and mistakes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from modules.command_line import guarded
from modules.runs.config import RunConfig
from paper_repro import analysis
from tests.support.models import MODELS
from tests.support.tiny import train
from variants import AdapterH, DoRA, LoRA, VeRA, attach
from variants.formats.native import save_adapter


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Adapters away from their start, on a RoBERTa and on a GPT-2 whose q and v are slices of a transposed map."""
    root = tmp_path_factory.mktemp("adapters")
    kinds = {"r2": (LoRA(r=2), 0), "r4": (LoRA(r=4), 0), "other": (LoRA(r=4), 1), "dora": (DoRA(r=4), 2)}
    kinds |= {"vera": (VeRA(r=6), 0), "adapter_h": (AdapterH(r=2), 0)}
    for base in ("roberta", "gpt2"):
        MODELS[base]().save_pretrained(root / base / "model")
        for name, (variant, seed) in kinds.items():
            adapted = attach(MODELS[base](), variant, seed)
            train(adapted.trained(), seed)
            save_adapter(adapted, root / base / name)
    return root


def call(*argv: object) -> int:
    return guarded(lambda: analysis.main([str(word) for word in argv]))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("base", ["roberta", "gpt2"])
def test_tables_hold_what_the_adapters_say(runs: Path, tmp_path: Path, base: str, capsys) -> None:
    folder = runs / base
    words = [folder / "r2", folder / "other", "--model", folder / "model", "--out", tmp_path, "--no_plots"]
    assert call(*words) == 0
    model = MODELS[base]()
    found = {name: attach(MODELS[base](), variant, seed) for name, variant, seed in _lora(base)}
    for name, adapted in found.items():
        train(adapted.trained(), dict((n, s) for n, _, s in _lora(base))[name])
    for row in table(tmp_path / "similarity.csv"):
        i, j = int(row["i"]), int(row["j"])
        U, V = (
            np.linalg.svd(found[name].adapter.layers[row["site"]].lora_A.detach().numpy())[2].T
            for name in ("r2", "other")
        )
        expected = np.linalg.norm(U[:, :i].T @ V[:, :j]) ** 2 / min(i, j)
        assert float(row["similarity"]) == pytest.approx(expected, abs=1e-4)
    sites = {layer.site.path: layer for layer in attach(model, LoRA(r=2)).layers}
    for row in [row for row in table(tmp_path / "amplification.csv") if row["run"] == "r2"]:
        W, delta = sites[row["site"]].site.weight().detach(), found["r2"].adapter.layers[row["site"]].delta_weight()
        U, _, Vt = np.linalg.svd(delta.detach().numpy())
        projected = np.linalg.norm(U[:, :2].T @ W.numpy() @ Vt[:2].T)
        assert float(row["weight"]) == pytest.approx(W.norm().item(), rel=1e-3)
        assert float(row["factor"]) == pytest.approx(delta.norm().item() / projected, rel=1e-2)
    assert len(table(tmp_path / "amplification.csv")) == 2 * len(sites)
    assert "written:" in capsys.readouterr().out


def _lora(base: str) -> list:
    return [("r2", LoRA(r=2), 0), ("other", LoRA(r=4), 1)]


def test_runs_of_one_seed_share_their_start(runs: Path, tmp_path: Path, capsys) -> None:
    """The first rows of A come from the seed whatever the rank: the table must not pass that off as training."""
    folder = runs / "roberta"
    assert call(folder / "r2", folder / "r4", "--model", folder / "model", "--out", tmp_path / "1", "--no_plots") == 0
    assert "started from common rows of A" in capsys.readouterr().out
    whole = [row for row in table(tmp_path / "1" / "similarity.csv") if (row["i"], row["j"]) == ("2", "4")]
    assert whole and all(float(row["start"]) == pytest.approx(1) for row in whole)
    assert call(folder / "r2", folder / "other", "--model", folder / "model", "--out", tmp_path, "--no_plots") == 0
    assert "started from common rows of A" not in capsys.readouterr().out


def test_without_an_A_directions_are_those_of_the_update(runs: Path, tmp_path: Path, capsys) -> None:
    folder = runs / "roberta"
    assert call(folder / "vera", folder / "dora", "--model", folder / "model", "--out", tmp_path, "--no_plots") == 0
    assert "directions of ΔW, because vera has no A" in capsys.readouterr().out
    assert {row["start"] for row in table(tmp_path / "similarity.csv")} == {""}
    assert {row["r"] for row in table(tmp_path / "amplification.csv")} == {"6", "4"}


def test_a_run_names_its_backbone(runs: Path, tmp_path: Path, capsys) -> None:
    """By its id: the run's own configuration says where the backbone is; gone, the similarity of A is left."""
    configs = []
    for seed, name in ((0, "r2"), (1, "other")):
        backbone = {"spec": str(runs / "roberta" / "model"), "source": "folder", "name": "model", "hash": "x"}
        data = {"spec": "d", "source": "folder", "name": "d", "hash": "y"}
        config = RunConfig("glue", "rte", "lora", {}, "p", seed, backbone, data, {}, results_dir=str(tmp_path))
        config.write()
        (config.folder / "best").symlink_to(runs / "roberta" / name)
        configs.append(config)
    names = [config.id for config in configs]
    assert call(*names, "--results_dir", tmp_path, "--out", tmp_path / "out", "--no_plots") == 0
    assert {row["run"] for row in table(tmp_path / "out" / "amplification.csv")} == set(names)
    for config in configs:
        config.backbone["spec"] = str(tmp_path / "gone")
        config.write()
    assert call(*names, "--results_dir", tmp_path, "--out", tmp_path / "less", "--no_plots") == 0
    assert "no amplification without its backbone" in capsys.readouterr().out
    assert not (tmp_path / "less" / "amplification.csv").exists()
    assert table(tmp_path / "less" / "similarity.csv") == table(tmp_path / "out" / "similarity.csv")


@pytest.mark.slow
def test_heat_maps_are_the_same_bytes_again(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = runs / "gpt2"
    for out in ("1", "2"):
        assert call(folder / "r2", folder / "r4", "--model", folder / "model", "--out", tmp_path / out) == 0
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert {"similarity-r2-r4.png", "similarity-r2-r4.svg"} <= set(names)
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["roberta/nothing"], "no run"),
        (["roberta/r2", "roberta/r2"], "named twice"),
        (["roberta/adapter_h", "roberta/r2", "--model", "roberta/model"], "adapter_h adds no ΔW"),
        (["roberta/vera", "--of", "A"], "vera has no A"),
        (["roberta/r2", "--of", "delta"], "without its backbone"),
        (["roberta/r2", "--model", "gpt2/model"], "not"),
        (["roberta/model"], "it has no adapter.json"),
    ],
)
def test_mistakes_are_one_line(runs: Path, tmp_path: Path, capsys, words: list[str], message: str) -> None:
    paths = [runs / word if "/" in word else word for word in words]
    assert call(*paths, "--out", tmp_path / "out", "--no_plots") == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
