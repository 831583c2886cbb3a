"""Any update of weights as the LoRA nearest to it: against merged weights, numpy's SVD, and PEFT itself."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.outside_variants import IA3, InputScale, PiSSA
from tests.support.peft_files import CONFIG, TENSORS, by_peft
from tests.support.tiny import gpt2, logits, roberta, trained
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, convert, formats
from variants.adapters.adapted_model import AdaptedModel
from variants.formats import peft
from variants.formats.native import save_adapter
from variants.formats.peft import AsLoRA

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def deltas(adapted: AdaptedModel) -> dict[str, np.ndarray]:
    """What merging adds to each adapted module's weight, as (out, in)."""
    modules = {layer.site.module_path: layer.site.whole() for layer in adapted.layers}
    adapted.deactivate()
    base = {path: site.weight().double().clone() for path, site in modules.items()}
    adapted.switch("default")
    adapted.merge()
    merged = {path: site.weight().double().clone() for path, site in modules.items()}
    adapted.unmerge()
    return {path: (merged[path] - base[path]).numpy() for path in modules}


def written(folder) -> dict[str, np.ndarray]:
    """B A of each map in a folder, by PEFT's arithmetic."""
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / TENSORS)
    found = {}
    for key in [key for key in tensors if key.endswith("lora_A.weight")]:
        path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        r = config["rank_pattern"].get(path, config["r"])
        assert len(tensors[key]) == r
        alpha = config["alpha_pattern"].get(path, config["lora_alpha"])
        found[path] = (alpha / r * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]).double().numpy()
    return found


def least(delta: np.ndarray, rank: int) -> float:
    """The smallest error that any matrix of a rank can have (Eckart and Young)."""
    s = np.linalg.svd(delta, compute_uv=False)
    return float(np.sqrt((s[rank:] ** 2).sum() / (s**2).sum()))


NEAR = {
    "dora": (roberta, DoRA(r=4)),
    "dora on slices": (gpt2, DoRA(r=4)),
    "lora of a higher rank": (roberta, LoRA(r=6, alpha=9, target="all-linear")),
    "lora on slices": (gpt2, LoRA(r=4)),
    "adalora": (roberta, AdaLoRA(init_r=6, target_r=5)),
    "vera": (gpt2, VeRA(r=9)),
    "pissa": (roberta, PiSSA(r=3)),
    "inputs scaled": (roberta, InputScale()),
}


@pytest.mark.parametrize("build, variant", NEAR.values(), ids=NEAR)
def test_no_lora_of_the_rank_is_nearer(build, variant, tmp_path):
    adapted = trained(build(), variant)
    before = {key: tensor.clone() for key, tensor in adapted.state_dict().items()}
    peft.save(adapted, tmp_path, AsLoRA(rank=3))
    expected, found, said = deltas(adapted), written(tmp_path), json.loads((tmp_path / peft.NEAREST).read_text())
    assert found.keys() == expected.keys() == said["maps"].keys()
    lost = {path: np.square(found[path] - delta).sum() for path, delta in expected.items()}
    for path, delta in expected.items():
        error = np.sqrt(lost[path] / np.square(delta).sum())
        assert error == pytest.approx(least(delta, 3), rel=1e-3, abs=1e-5)
        assert said["maps"][path] == {"r": 3, "relative_error": pytest.approx(error, rel=1e-3, abs=1e-5)}
    overall = np.sqrt(sum(lost.values()) / sum(np.square(delta).sum() for delta in expected.values()))
    assert said["relative_error"] == pytest.approx(overall, rel=1e-3, abs=1e-5) and overall > 0.02
    assert all(torch.equal(tensor, before[key]) for key, tensor in adapted.state_dict().items())


@pytest.mark.parametrize("build, variant", NEAR.values(), ids=NEAR)
def test_the_whole_rank_computes_the_same(build, variant, tmp_path):
    adapted = trained(build(), variant)
    expected = logits(adapted.model)
    peft.save(adapted, tmp_path, AsLoRA(rank=1000))
    assert json.loads((tmp_path / peft.NEAREST).read_text())["relative_error"] < 1e-5
    for model in (by_peft(build(), tmp_path), formats.load(build(), tmp_path).model):
        assert (logits(model) - expected).abs().max() < 2e-4


def test_the_least_rank_that_keeps_to_an_error(tmp_path):
    adapted = trained(roberta(), DoRA(r=2, target="q,up"))
    peft.save(adapted, tmp_path, AsLoRA(max_error=0.2))
    found, ranks = written(tmp_path), set()
    for path, delta in deltas(adapted).items():
        rank = np.linalg.matrix_rank(found[path], tol=1e-4)
        ranks.add(rank)
        assert least(delta, rank) <= 0.2 < least(delta, rank - 1)
    assert len(ranks) > 1, "each map has its own"
    assert torch.isfinite(logits(by_peft(roberta(), tmp_path))).all()


def test_factors_are_enough_where_they_are_declared(tmp_path, monkeypatch):
    """No matrix of the map's size is decomposed, and the adapter's file alone does."""
    save_adapter(trained(roberta(), LoRA(r=6)), tmp_path / "ours")
    svd, sizes = torch.linalg.svd, []
    monkeypatch.setattr(torch.linalg, "svd", lambda m, **o: (sizes.append(max(m.shape)), svd(m, **o))[1])
    line = convert.convert(tmp_path / "ours", tmp_path / "peft", "peft", as_lora=AsLoRA(rank=2))
    assert set(sizes) == {6} and "made without the base, whose relative error is" in line


def test_an_older_note_of_errors_does_not_stay(tmp_path):
    adapted = trained(roberta(), LoRA(r=4))
    peft.save(adapted, tmp_path, AsLoRA(rank=2))
    peft.save(adapted, tmp_path)
    assert not (tmp_path / peft.NEAREST).exists()


@pytest.mark.parametrize("named", [False, True], ids=["--model", "named by the file"])
def test_the_command_says_how_near_each_map_comes(named, tmp_path, capsys):
    roberta().save_pretrained(tmp_path / "base")
    adapted = trained(roberta(), DoRA(r=2, target="q"))
    save_adapter(adapted, tmp_path / "ours", **({"backbone": {"spec": str(tmp_path / "base")}} if named else {}))
    words = [str(tmp_path / "ours"), str(tmp_path / "out"), "--to", "peft", "--as", "lora"]
    assert convert.main(words) == 2 and "--as lora --rank R" in capsys.readouterr().err
    if not named:
        assert convert.main([*words, "--rank", "5"]) == 2 and "give the model (--model)" in capsys.readouterr().err
        words += ["--model", str(tmp_path / "base")]
    assert not (tmp_path / "out").exists()
    assert convert.main([*words, "--rank", "5"]) == 0
    *maps, last = capsys.readouterr().out.splitlines()
    said = json.loads((tmp_path / "out" / peft.NEAREST).read_text())
    assert [line.split() for line in maps] == [
        ["r=5", f"{each['relative_error']:.1e}", path] for path, each in said["maps"].items()
    ]
    assert f"made with the base's weights, whose relative error is {said['relative_error']:.1e}" in last
    assert convert.main([*words, "--rank", "auto"]) == 0
    assert json.loads((tmp_path / "out" / peft.NEAREST).read_text())["relative_error"] <= 0.01


@pytest.mark.parametrize(
    "words, line",
    [
        (["--rank", "4"], "--rank and --max_error go with --as lora"),
        (["--as", "lora", "--rank", "four"], "--rank must be a whole number or auto, not 'four'"),
        (["--as", "lora", "--rank", "0"], "--rank must be at least 1, not 0"),
        (["--as", "lora", "--rank", "auto", "--max_error", "2"], "--max_error must lie between 0 and 1, not 2"),
        (["--as", "lora", "--rank", "4", "--max_error", "0.1"], "--max_error goes with --rank auto"),
    ],
)
def test_words_that_do_not_fit_are_one_line(words, line, tmp_path, capsys):
    assert convert.main([str(tmp_path), str(tmp_path / "y"), "--to", "peft", *words]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_what_no_lora_comes_near_is_named(tmp_path):
    adapted = trained(roberta(), IA3())
    with pytest.raises(
        VariantError, match=r"ia3 changes the bias of .*, so there is no LoRA near it: merge it instead"
    ):
        peft.save(adapted, tmp_path, AsLoRA(rank=4))
    assert adapted.active == "default" and not list(tmp_path.iterdir())
