"""vLLM's rules: what is written keeps to them, by rules written down here again and by vLLM itself where it is."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.support.causal_models import tiny
from tests.support.peft_files import CONFIG, TENSORS
from tests.support.tiny import roberta, trained
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach, convert
from variants.formats.native import save_adapter
from variants.formats.peft import vllm

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def accepts(folder, most: int = 512) -> bool:
    """vLLM 0.33's checks of a folder, as its documentation and messages state them."""
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / TENSORS)
    if not {"r", "lora_alpha", "target_modules"} <= config.keys() or config["use_dora"] or config["bias"] != "none":
        return False
    if set(config["modules_to_save"] or []) - {"classifier", "score"} or config.get("init_lora_weights") is not True:
        return False
    ranks = {len(t) for key, t in tensors.items() if key.endswith(".lora_A.weight")}
    if max(ranks | set(config["rank_pattern"].values()) | {config["r"]}) > most:
        return False
    heads = {key.split(".")[-2] for key in tensors if ".lora_" not in key}
    return heads <= {"classifier", "score"} and len(heads) < 2 and all("base_model.model." in key for key in tensors)


@pytest.fixture
def base(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def saved(variant, folder, head=None):
    adapted = attach(tiny("llama"), variant, head=head)
    with torch.no_grad():
        for tensor in adapted.trained().values():
            tensor += 0.1
    save_adapter(adapted, folder)
    return [str(folder), str(folder.with_name("served")), "--to", "vllm"]


def by_vllm(folder) -> None:
    """Its own check, where it is installed."""
    helper = pytest.importorskip("vllm.lora.peft_helper", reason="vLLM, which needs a torch of its own, is not here")
    helper.PEFTHelper.from_local_dir(str(folder), None).validate_legal(SimpleNamespace(max_lora_rank=512))


SERVED = {
    "lora": (LoRA(r=4, target="all-linear"), []),
    "lora of two ranks": (LoRA(r=2, per_layer={"*.1.*": {"r": 12}}), []),
    "rslora": (LoRA(r=4, rslora=True), []),
    "dora": (DoRA(r=2), ["--as", "lora", "--rank", "4"]),
    "adalora": (AdaLoRA(init_r=4, target_r=2), ["--as", "lora"]),
    "vera": (VeRA(r=9), ["--as", "lora"]),
}


@pytest.mark.parametrize("variant, words", SERVED.values(), ids=SERVED)
def test_what_is_written_is_taken(variant, words, base, tmp_path, capsys):
    command = [*saved(variant, tmp_path / "ours"), "--model", str(base), *words]
    assert convert.main(command) == 0
    served = tmp_path / "served"
    assert accepts(served)
    serve = capsys.readouterr().out.splitlines()[-1]
    rank = json.loads((served / CONFIG).read_text())["r"]
    room = next(most for most in (1, 8, 16, 32, 64, 128, 256, 320, 512) if most >= rank)
    assert serve == (
        f"vllm serve {base.resolve()} --enable-lora --max-lora-rank {room} --lora-modules my-adapter={served}"
    )
    assert accepts(served, room)


@pytest.mark.parametrize("variant, words", [SERVED["lora of two ranks"], SERVED["dora"]], ids=["lora", "dora"])
def test_vllm_says_so_itself(variant, words, base, tmp_path):
    pytest.importorskip("vllm", reason="vLLM, which needs a torch of its own, is not installed")
    convert.main([*saved(variant, tmp_path / "ours"), "--model", str(base), *words])
    by_vllm(tmp_path / "served")


REFUSED = {
    "dora": (DoRA(r=2), None, "vLLM does not serve DoRA: --as lora --rank R makes a LoRA near it"),
    "adalora": (AdaLoRA(init_r=4, target_r=2), None, "vLLM serves LoRA alone, and this is ADALORA: --as lora computes"),
    "embeddings": (LoRA(r=2), ["model.embed_tokens.weight"], "this trains model.embed_tokens as a whole: merge it"),
}


@pytest.mark.parametrize("variant, head, line", REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_rule_and_the_mend(variant, head, line, base, tmp_path, capsys):
    command = saved(variant, tmp_path / "ours", head)
    assert convert.main([*command, "--model", str(base)]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1 and not (tmp_path / "served").exists()
    command[3] = "peft"
    assert convert.main([*command, "--model", str(base)]) == 0 and not accepts(tmp_path / "served")


@pytest.mark.parametrize("patterns", [{"r": 600}, {"r": 8, "rank_pattern": {"q_proj": 600}}])
def test_ranks_end_at_512(patterns):
    with pytest.raises(VariantError, match="vLLM serves ranks up to 512, and this has 600: --as lora --rank 512"):
        vllm.refuse({"peft_type": "LORA"} | patterns, [])
    vllm.refuse({"peft_type": "LORA", "r": 512}, [])


def test_a_head_of_several_maps_is_not_served(tmp_path, capsys):
    save_adapter(trained(roberta(), LoRA(r=2)), tmp_path / "ours")
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "served"), "--to", "vllm"]) == 2
    assert "classifier.dense as a whole: merge it" in capsys.readouterr().err
