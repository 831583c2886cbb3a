"""LoRA-XS against a dense formula, its size, and its frozen vectors, which no file need hold."""

import torch
from safetensors.torch import load_file

from tests.support.models import MODELS, inputs
from tests.support.parity import adapter_size, off
from variants import LoRAXS, attach, load
from variants.formats.native import save_adapter


@torch.no_grad()
def test_is_the_papers_product() -> None:
    layer = attach(MODELS["roberta"](), LoRAXS(r=3, alpha=6.0)).layers[0]
    layer.R.normal_()
    U, S, V = torch.linalg.svd(layer.site.weight())
    signs = (layer.A * V[:3]).sum(1).sign()  # a singular vector's sign is nobody's
    expected = 2.0 * (U[:, :3] * S[:3] * signs) @ layer.R @ (signs[:, None] * V[:3])
    assert off(layer.delta_weight(), expected) < 1e-5


def test_published_size() -> None:
    """12 blocks, q and v, r = 4 to 20: r² for each map."""
    assert adapter_size("roberta-base", LoRAXS(r=20, target="q,v,o,up")) == 12 * 4 * 400


@torch.no_grad()
def test_the_file_holds_r_alone(tmp_path) -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    adapted = attach(model, LoRAXS(r=3))
    for layer in adapted.layers:
        layer.R.normal_()
    logits = model(**batch).logits
    held = load_file(save_adapter(adapted, tmp_path) / "adapter.safetensors")
    assert {k.rpartition(".")[2] for k in held if k not in adapted.head} == {"R"}
    assert off(load(MODELS["roberta"](), tmp_path).model(**batch).logits, logits) < 1e-5
    with_vectors = attach(MODELS["roberta"](), LoRAXS(r=3, save_projection=True))
    held = load_file(save_adapter(with_vectors, tmp_path) / "adapter.safetensors")
    assert {k.rpartition(".")[2] for k in held if k not in adapted.head} == {"A", "B", "R"}
