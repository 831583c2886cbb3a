"""The models on which the contract is checked: tiny, plain torch, with biases that are not zero.

They are adapted with non-zero weights: at a fresh start, with B = 0, many errors are invisible.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from variants.adapters.adapted_model import AdaptedModel, attach
from variants.errors import VariantError, first_line
from variants.outside.options import build
from variants.variant import BaseVariant

PLAIN, SPLIT, FUSED, CONV1D = "plain", "split", "fused", "conv1d"
NORM = ("ln_1", "input_layernorm")
"""GPT-2's name of a block's norm, and LLaMA's."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Models as small as these are slower with several threads, by far where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class NotApplicable(Exception):
    """The property says nothing about this variant; the message is the reason."""


class Conv1D(nn.Module):
    """GPT-2's linear map: its weight is (in, out), and ``nf`` its number of outputs."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.nf = weight.shape[0]
        self.weight, self.bias = nn.Parameter(weight.t().contiguous()), nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """x W + b, as GPT-2 has it: (..., in) gives (..., out)."""
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return linear


class Block(nn.Module):
    """Attention without a softmax (which would hide the bias of k) and a two-layer perceptron, both residual."""

    def __init__(self, kind: str, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.kind = kind
        norm = nn.LayerNorm(width)
        with torch.no_grad():
            noise = torch.Generator().manual_seed(width)  # weights that methods for norms have something to do with
            norm.weight.add_(0.2 * torch.randn(width, generator=noise))
            norm.bias.add_(0.2 * torch.randn(width, generator=noise))
        setattr(self, NORM[kind == PLAIN], norm)
        self.attn, self.mlp = nn.Module(), nn.Module()
        make = Conv1D if kind == CONV1D else _linear

        def draw(fan_out: int, fan_in: int) -> tuple[Tensor, Tensor]:
            return torch.randn(fan_out, fan_in, generator=rng) / (2 * fan_in**0.5), 0.3 * torch.randn(
                fan_out, generator=rng
            )

        qkv, o, up, down = (
            draw(*shape) for shape in ((3 * width, width), (width, width), (width + 8, width), (width, width + 8))
        )
        split = {name: _linear(*part) for name, *part in zip("qkv", qkv[0].chunk(3), qkv[1].chunk(3), strict=True)}
        if kind == PLAIN:
            self.self_attn = nn.ModuleDict({f"{name}_proj": part for name, part in split.items()})
            self.self_attn["o_proj"] = make(*o)
            self.mlp.up_proj, self.mlp.down_proj = make(*up), make(*down)
        else:
            self.attn.c_attn = nn.ModuleDict(split) if kind == SPLIT else make(*qkv)
            self.attn.c_proj = make(*o)
            self.mlp.c_fc, self.mlp.c_proj = make(*up), make(*down)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (batch, tokens, width) of the block before give those of this one."""
        h = getattr(self, NORM[self.kind == PLAIN])(x)
        if self.kind == PLAIN:
            maps = self.self_attn
            q, k, v, o = maps["q_proj"](h), maps["k_proj"](h), maps["v_proj"](h), maps["o_proj"]
            up, down = self.mlp.up_proj, self.mlp.down_proj
        else:
            fused = self.attn.c_attn
            q, k, v = (fused[n](h) for n in "qkv") if self.kind == SPLIT else fused(h).chunk(3, dim=-1)
            o, up, down = self.attn.c_proj, self.mlp.c_fc, self.mlp.c_proj
        x = x + o(torch.tanh(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5) @ v)
        return x + down(torch.tanh(up(x)))


class Backbone(nn.ModuleDict):
    """The blocks, one after the other, on features (batch, tokens, width).

    Attributes:
        recomputes: gradient checkpointing: a block keeps its input alone, and is computed again in the backward pass.
    """

    recomputes = False

    def __init__(self, blocks: Sequence[Block], config: SimpleNamespace) -> None:
        super().__init__({"layers": nn.ModuleList(blocks)})
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, tokens, width) give hidden states of the same shape."""
        for block in self["layers"]:
            x = checkpoint(block, x, use_reentrant=False) if self.recomputes else block(x)
        return x


class Tiny(nn.Module):
    """Two blocks and a head. Every kind computes the same function; roles are LLaMA's (plain) or GPT-2's.

    Args:
        kind: plain (a map each for q, k, v), fused (one nn.Linear), conv1d (one transposed map), or split (as plain,
            under the paths that the slices of a fused map have).
    """

    def __init__(self, kind: str = PLAIN, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.config = SimpleNamespace(model_type="llama" if kind == PLAIN else "gpt2")
        self.base_model = Backbone([Block(kind, width, rng) for _ in range(depth)], self.config)
        self.score = _linear(torch.randn(3, width, generator=rng) / width**0.5, torch.randn(3, generator=rng))

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, tokens, width) -> scores (batch, 3)."""
        return self.score(self.base_model(x).mean(dim=-2))


class Output(dict):
    """What transformers' models give: entries that are attributes too."""

    __getattr__ = dict.__getitem__


class TinyText(Tiny):
    """The plain model with an embedding, called as transformers' are: tokens give logits and a loss."""

    VOCABULARY = 20

    def __init__(self, width: int = 16) -> None:
        super().__init__(width=width)
        rng = torch.Generator().manual_seed(2)
        self.base_model["embeddings"] = nn.Embedding.from_pretrained(torch.randn(self.VOCABULARY, width, generator=rng))

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> Output:
        """Tokens (batch, tokens) and perhaps classes (batch) -> ``logits`` (batch, 3) and perhaps ``loss``."""
        logits = super().forward(self.base_model["embeddings"](input_ids))
        loss = {} if labels is None else {"loss": F.cross_entropy(logits, labels)}
        return Output(logits=logits, **loss)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Three batches of four rows, as training gives them."""
        rng = torch.Generator().manual_seed(3)
        for _ in range(3):
            tokens = torch.randint(self.VOCABULARY, (4, 5), generator=rng)
            labels = torch.randint(3, (4,), generator=rng)
            yield {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


@dataclass
class Subject:
    """A variant and the models it is tried on."""

    variant: BaseVariant
    width: int = 16

    @classmethod
    def of(cls, variant: BaseVariant | type[BaseVariant]) -> Subject:
        """Fit the models to the variant: as wide as its rank asks, and a target they have."""
        variant = build(variant, {}) if isinstance(variant, type) else variant
        if hasattr(variant, "target"):
            try:
                variant.sites(Tiny())
            except VariantError:
                variant = dataclasses.replace(variant, target="attn-qv", layers="", per_layer={})
        for width in (16, 64, 256):
            try:
                attach(Tiny(width=width), variant)
                return cls(variant, width)
            except (ValueError, AssertionError) as error:
                if not is_refusal(error):
                    break
            except Exception:  # not a matter of the width: each property reports it
                break
        return cls(variant)

    def model(self, kind: str = PLAIN, depth: int = 2) -> Tiny:
        """A fresh model, in evaluation mode."""
        return Tiny(kind, self.width, depth).eval()

    def inputs(self, batch: int = 8) -> Tensor:
        """Features (batch, 5, width), the same at each call."""
        return torch.randn(batch, 5, self.width, generator=torch.Generator().manual_seed(1))

    def attached(self, model: nn.Module | None = None, seed: int = 0, **changes: str) -> AdaptedModel:
        """The variant on ``model``, as it is at the start; NotApplicable where it refuses an unusual one."""
        try:
            variant = dataclasses.replace(self.variant, **changes) if changes else copy.copy(self.variant)
            return attach(self.model() if model is None else model, variant, seed)
        except (ValueError, AssertionError) as error:
            if (changes or model is not None) and is_refusal(error):
                raise NotApplicable(f"it refuses the models of this property: {first_line(error)}") from error
            raise

    def trained(self, model: nn.Module | None = None, **changes: str) -> AdaptedModel:
        """The variant as if it had been trained: every tensor of it away from its start."""
        adapted = self.attached(model, **changes)
        for index, tensor in enumerate(adapter_parameters(adapted).values()):
            shift(tensor, index)
        return adapted

    def retargeted(self, target: str) -> dict[str, str]:
        """Options that put the variant's layers on ``target``; NotApplicable where it chooses its own sites."""
        if not hasattr(self.variant, "target"):
            raise NotApplicable("it has no layer on a linear map" if no_layers(self) else "it chooses its own sites")
        return {"target": target, "layers": "", "per_layer": {}}


def is_refusal(error: BaseException) -> bool:
    """Whether an error is a method's own word that it cannot be so, and no failure of its code."""
    cause = error.__cause__ or error
    return isinstance(cause, (ValueError, AssertionError))


def adapter_parameters(adapted: AdaptedModel) -> dict[str, nn.Parameter]:
    """What trains, the head apart."""
    return {name: tensor for name, tensor in adapted.trained().items() if name not in adapted.head}


def no_layers(subject: Subject) -> bool:
    """Whether the variant has no layers, as BitFit."""
    return not subject.attached().layers


@torch.no_grad()
def shift(tensor: Tensor, index: int = 0, scale: float = 0.1) -> None:
    """Add noise that depends on ``index`` alone."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(100 + index))
    tensor.add_(scale * noise.to(tensor))


def distance(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; 0 of empty tensors."""
    return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0


def optimizer_steps(
    adapted: AdaptedModel, x: Tensor, target: Tensor, steps: int, kind=torch.optim.Adam, model=None, **options: float
) -> list[float]:
    """Train as a trainer does: loss and penalty, the variant's own groups, its step after each step."""
    groups, losses = adapted.param_groups(**options), []
    optimizer = adapted.optimizer([{"weight_decay": 0.0} | group for group in groups]) or kind(groups)
    for step in range(1, steps + 1):
        loss = F.mse_loss((model or adapted.model)(x), target)
        losses.append(loss.item())
        penalty = adapted.penalty(step, steps)
        (loss if penalty is None else loss + penalty).backward()
        adapted.before_step(step, steps)
        optimizer.step()
        adapted.after_step(step, steps, optimizer)
        optimizer.zero_grad()
    return losses


def target_outputs(subject: Subject, x: Tensor) -> Tensor:
    """What a model with other weights makes of ``x``: something that an adapter can learn in part."""
    model = subject.model()
    for index, parameter in enumerate(model.base_model.parameters()):
        shift(parameter, index, 0.3 / math.sqrt(subject.width))
    return model(x).detach()
