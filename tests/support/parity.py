"""Our adapters beside PEFT's on the same tiny model, with the same values in them, none of them zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.models import LABELS, MODELS, inputs
from variants import AdaptedModel, attach
from variants.variant import Variant

MAPS = {"roberta": ["query", "value"], "gpt2": ["c_attn"]}
"""What PEFT adapts by default; it knows no slices, so GPT-2's fused map is taken whole here, by its name."""
_LORA = {"lora_A": "lora_A.default.weight", "lora_B": "lora_B.default.weight"}
_THEIRS: dict[str, dict[str, str]] = {
    "lora": _LORA | {"magnitude": "lora_magnitude_vector.default.weight"},
    "vera": {"d": "vera_lambda_d.default", "b": "vera_lambda_b.default"},
    "ia3": {"l": "ia3_l.default"},
    "loha": {
        "B1": "hada_w1_a.default",
        "A1": "hada_w1_b.default",
        "B2": "hada_w2_a.default",
        "A2": "hada_w2_b.default",
    },
    "lokr": {"C": "lokr_w1.default", "B": "lokr_w2_a.default", "A": "lokr_w2_b.default"},
    "oft": {"Q.upper": "oft_R.default.weight"},
    "hra": {"u": "hra_u.default"},
    "fourierft": {"c": "fourierft_spectrum.default"},
    "randlora": {"Lambda": "randlora_lambda.default", "Gamma": "randlora_gamma.default"},
    "delora": {"A": "delora_A.default", "B": "delora_B.default", "strength": "delora_lambda.default"},
    "miss": {"D": "miss_block.default"},
    "vblora": {"logits_A": "vblora_logits_A.default", "logits_B": "vblora_logits_B.default"},
}
"""A layer's tensors by our name -> PEFT's, for each method; any other's are LoRA's."""


@dataclass
class Pair:
    """One model twice: with our adapter and with PEFT's."""

    name: str
    ours: AdaptedModel
    theirs: nn.Module

    def tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Every trained tensor of ours (head included) and PEFT's counterpart."""
        base, parameters, tensors = self.theirs.base_model.model, self.ours.trained(), {}
        names = _THEIRS.get(self.ours.variant.name, _THEIRS["lora"])
        for path in self.ours.adapter.layers:
            for own, theirs in names.items():
                if (key := f"{path}.{own}") in parameters:
                    tensors[key] = parameters[key], base.get_parameter(f"{path}.{theirs}")
            if f"{path}.bank.vectors" in parameters:  # the one of all layers
                bank = base.get_parameter(f"{path}.vblora_vector_bank.default")
                tensors[f"{path}.bank.vectors"] = parameters[f"{path}.bank.vectors"], bank
        tensors |= {key: (parameters[key], base.get_parameter(key)) for key in self.ours.head}
        assert set(tensors) == set(parameters)
        return tensors

    def models(self) -> tuple[nn.Module, nn.Module]:
        return self.ours.model, self.theirs


def pair(name: str, variant: Variant, config: peft.PeftConfig) -> Pair:
    """Attach both and give both the same random values."""
    made = Pair(name, attach(MODELS[name](), variant), peft.get_peft_model(MODELS[name](), config))
    made.theirs.eval()
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, (mine, other) in made.tensors().items():
            other.requires_grad_(True)
            if key not in made.ours.head:
                scale = 0.2 * (mine.abs().mean() + 0.1)
                mine += scale * torch.randn(mine.shape, generator=rng)
                other.copy_(mine.view_as(other))
    trained = {id(other) for _, other in made.tensors().values()}
    assert trained == {id(p) for p in made.theirs.parameters() if p.requires_grad}
    return made


def loss(model: nn.Module, name: str, batch: int = 3) -> Tensor:
    labels = torch.arange(batch) % LABELS
    return F.cross_entropy(model(**inputs(name, batch)).logits, labels)


def off(mine: Tensor, theirs: Tensor) -> float:
    return (mine - theirs.view_as(mine)).abs().max().item()


def compare(made: Pair, *, seed: int | None = None) -> dict[str, float]:
    """Largest differences of logits, gradients, weights after ten AdamW steps, and merged weights and logits.

    Args:
        seed: of dropout's masks; both models are in training mode if it is given.
    """
    found: dict[str, float] = {}
    for model in made.models():
        model.train(seed is not None)

    def seeded() -> None:
        if seed is not None:
            torch.manual_seed(seed)

    logits = []
    for model in made.models():
        seeded()
        logits.append(model(**inputs(made.name)).logits)
    found["forward"] = off(*logits)

    optimizers = [torch.optim.AdamW([t[i] for t in made.tensors().values()], lr=1e-3) for i in (0, 1)]
    for step in range(10):
        for model, optimizer in zip(made.models(), optimizers, strict=True):
            optimizer.zero_grad()
            seeded()
            loss(model, made.name, 3 + step % 2).backward()
        if step == 0:
            found["gradient"] = max(off(a.grad, b.grad) for a, b in made.tensors().values())
            assert all(a.grad.abs().max() > 1e-5 for a, _ in made.tensors().values())
        for optimizer in optimizers:
            optimizer.step()
    found["ten steps"] = max(off(*two) for two in made.tensors().values())

    for model in made.models():
        model.eval()
    plain = made.ours.model(**inputs(made.name)).logits.detach()
    made.ours.merge()
    merged = made.theirs.merge_and_unload()
    found["merged logits"] = off(made.ours.model(**inputs(made.name)).logits, plain)
    theirs = dict(merged.named_parameters())
    found["merged"] = max(off(p, theirs[k]) for k, p in made.ours.model.named_parameters() if k in theirs)
    assert {k for k, _ in made.ours.model.named_parameters() if ".adapter." not in k} == set(theirs)
    return found


def full_size(model_type: str, **sizes: Any) -> nn.Module:
    """A classifier of a published size that has shapes and no values."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **sizes))


BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SIZES: dict[str, dict[str, Any]] = {
    "roberta-base": {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514} | BASE,
    "deberta-v3-base": {"model_type": "deberta-v2", "vocab_size": 128100, "relative_attention": True} | BASE,
    "gpt2-medium": {"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"model_type": "gpt2", "n_embd": 1280, "n_layer": 36, "n_head": 20},
}


def adapter_size(backbone: str, variant: Variant) -> int:
    """Trained parameters of the adapter alone on a backbone of published size."""
    return attach(full_size(**SIZES[backbone]), variant).count()["adapter"]
