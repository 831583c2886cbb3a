"""Subspace similarity and amplification against direct definitions, and the analysis of adapters from end to end."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.analysis.adapter_directions import block_and_kind, update
from modules.analysis.subspace import amplification, by_chance, gaussian, right_singular, similarity
from modules.command_line import guarded
from modules.runs.config import RunConfig
from paper_repro import analysis
from tests.support.models import MODELS
from tests.support.tiny import Off, train
from variants import AdapterH, DoRA, LoRA, VeRA, attach
from variants.formats.native import save_adapter


def orthonormal(d: int, k: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, k)))[0]


# ---- φ and Table 7's norms ---------------------------------------------------------------------------------


def test_similarity_is_its_definition() -> None:
    A, B = (np.random.default_rng(seed).normal(size=(r, 20)) for seed, r in ((0, 5), (1, 9)))
    U, V = np.linalg.svd(A)[2].T, np.linalg.svd(B)[2].T
    grid = similarity(right_singular(torch.tensor(A)), right_singular(torch.tensor(B)))
    assert grid.shape == (5, 9)
    for i in range(1, 6):
        for j in range(1, 10):
            assert grid[i - 1, j - 1] == pytest.approx(np.linalg.norm(U[:, :i].T @ V[:, :j]) ** 2 / min(i, j))


def test_similarity_is_one_within_a_subspace_and_zero_across() -> None:
    Q = torch.tensor(orthonormal(12, 8, 0))
    assert similarity(Q[:, :4], Q[:, :4])[-1, -1] == pytest.approx(1)
    assert similarity(Q[:, :2], Q @ torch.tensor(orthonormal(8, 8, 1)))[-1, -1] == pytest.approx(1)  # lies in the other
    assert similarity(Q[:, :4], Q[:, 4:]).abs().max() < 1e-20


def test_random_subspaces_agree_by_chance() -> None:
    d, trials = 50, 200
    grids = torch.stack([similarity(gaussian(3, d, 2 * k), gaussian(7, d, 2 * k + 1)) for k in range(trials)])
    for i, j in ((1, 1), (3, 3), (3, 7)):
        sample = grids[:, i - 1, j - 1]
        assert by_chance(i, j, d) == max(i, j) / d
        assert abs(sample.mean() - by_chance(i, j, d)) < 4 * sample.std() / trials**0.5


def test_directions_end_where_the_rank_does() -> None:
    B, A = torch.randn(30, 3), torch.randn(3, 20)
    assert right_singular(B @ A, 8).shape == (20, 3)
    assert right_singular(B @ A, 2).shape == (20, 2)
    assert right_singular(torch.zeros(4, 5)).shape == (5, 0)


def test_amplification_of_a_known_update() -> None:
    """W = U diag(10, 5, 2, 1) Vᵀ, and ΔW adds 6 and 8 where W has 2 and 1."""
    U, V = torch.tensor(orthonormal(9, 4, 0)), torch.tensor(orthonormal(7, 4, 1))
    weight = U @ torch.diag(torch.tensor([10.0, 5, 2, 1], dtype=torch.float64)) @ V.T
    delta = U[:, 2:] @ torch.diag(torch.tensor([6.0, 8], dtype=torch.float64)) @ V[:, 2:].T
    found = amplification(weight, delta, 4)
    assert found.rank == 2  # of ΔW
    assert (found.delta, found.weight) == pytest.approx((10, 130**0.5))
    assert (found.on_delta, found.on_weight) == pytest.approx((5**0.5, 125**0.5))
    assert found.factor == pytest.approx(10 / 5**0.5)
    assert 0 < found.on_random < found.on_weight
    assert amplification(weight, delta, 1).on_delta == pytest.approx(1)  # the 8 is first, where W has 1


@pytest.mark.parametrize("variant", [LoRA(r=2), DoRA(r=2), VeRA(r=3), Off(r=2)], ids=lambda v: type(v).__name__)
def test_update_is_what_merging_adds_to_the_backbone(variant) -> None:
    adapted, plain = attach(MODELS["gpt2"](), variant), attach(MODELS["gpt2"](), LoRA())
    train(adapted.trained(), 0)
    adapter = adapted.adapter
    adapted.merge()
    merged = {path: layer.site.weight().detach().clone() for path, layer in adapter.layers.items()}
    adapted.deactivate()
    for layer in plain.layers:
        added = merged[layer.site.path] - layer.site.weight().detach()
        assert added.abs().max() > 0.01
        assert torch.allclose(update(adapter, layer.site.path), added, atol=1e-5)


# ---- the command -------------------------------------------------------------------------------------------


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
        data = {"source": "folder", "name": "d", "hash": "y"}
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


def test_sites_are_named_by_block() -> None:
    assert block_and_kind("roberta.encoder.layer.3.attention.self.query") == (3, "attention.self.query")
    assert block_and_kind("transformer.h.11.attn.c_attn.q") == (11, "attn.c_attn.q")
    assert block_and_kind("proj") == (0, "proj")
