"""The scenarios of the benchmark: backbones with batches of a kind, and what is measured on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from modules.efficiency.steps import unets
from modules.efficiency.steps.backbones import Batch, sizes
from modules.efficiency.steps.batches import drawn_batches, fixed_batches, full_batches
from modules.efficiency.steps.grid import DENSE
from variants.registry import BUILT_IN
from variants.sites.architectures import ARCHITECTURES


@dataclass(frozen=True)
class Scenario:
    """A backbone on batches of a kind.

    Attributes:
        key: name on the command line.
        shape: the backbone: a key of `backbones.SHAPES`, embedded-roberta or embedded-gpt2.
        rows, width: of a batch, width in tokens, of a UNet the side of its latents; with a width of 0 the lengths are
            drawn from the table ``lengths``.
        at_once: all implementations stay on the device and take turns; else they are measured one after another, to
            save memory.
        stacked: measure stacked seeds too.
        options: hyperparameters that differ from `implementations.METHODS`, by method.
        target: of the adapters: attn-qv, attn or all-linear.
        checkpointing: blocks are computed again in the backward pass.
        curves: the backbone of its loss curves; empty: ``shape``.
        spread: of the adapters' starting values in its loss curves (`loss_curves.Case`).
        libraries: those that are measured; empty: all.
        quantise: how the frozen base is kept, for all libraries (`variants.schemes`); empty: as it is.
        budget: of our adapters' parameters, where a method has a size; 0: as their options say.
    """

    key: str
    shape: str
    rows: int
    width: int = 0
    lengths: str = ""
    methods: tuple[str, ...] = ("lora", "dora", "vera", "adalora")
    modes: tuple[str, ...] = ("eager", "graphs", "trained")
    at_once: bool = True
    stacked: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    target: str = "attn-qv"
    checkpointing: bool = False
    curves: str = ""
    spread: float = 0.5
    libraries: tuple[str, ...] = ()
    quantise: str = ""
    budget: int = 0

    @property
    def title(self) -> str:
        """For the heading of its table."""
        size = f"{self.rows} x {self.width} tokens" if self.width else f"batch {self.rows}, lengths of {self.lengths}"
        if self.is_unet:
            size = f"{self.rows} x {self.width} x {self.width} latents"
        target = f", {self.target}" if self.target != "attn-qv" else ""
        base = f", {self.quantise}" if self.quantise else ""
        target += f", {self.budget:,} parameters" if self.budget else ""
        return f"{self.shape}{base}, {size}{target}{', checkpointing' if self.checkpointing else ''}"

    @property
    def decoder(self) -> bool:
        """Whether it is a large decoder: built in bf16, on rows without padding whose tokens are all targets."""
        return sizes(self.shape)["model_type"] == "llama"

    @property
    def is_unet(self) -> bool:
        """Whether it is a UNet of diffusers."""
        return unets.is_unet(sizes(self.shape))

    @property
    def packed(self) -> bool:
        """Whether the backbone can train without padding (`modules.acceleration.packed_encoder`)."""
        family = ARCHITECTURES[sizes(self.shape)["model_type"]]
        return family.packs and not family.causal

    def batches(self, config: dict[str, Any], device: torch.device) -> list[Batch]:
        """All batches of a pass, on the device."""
        if self.is_unet:
            return unets.batches(config, self.rows, device)
        if self.decoder:
            return full_batches(config, self.rows, self.width, device)
        if self.width:
            return fixed_batches(config, self.rows, self.width, device)
        return drawn_batches(config, self.rows, self.lengths, device, count=16 if device.type == "cuda" else 8)


_LONE = {"methods": ("lora",)}
_ALL = {
    "methods": tuple(name for name in BUILT_IN if name not in ("head", "bitfit", "ft_top2", "full", "galore")),
    "modes": ("trained",),  # without methods that train the backbone itself, which is in bf16 here
    "libraries": ("ours",),
}
_SMALL = {"vera": {"r": 256}}
_DECODER = {
    "methods": ("lora", "dora"),
    "modes": ("eager", "graphs", "trained"),
    "at_once": False,
    "options": {"lora": {"r": 16, "alpha": 32.0}, "dora": {"r": 16, "alpha": 32.0}},
    "target": "all-linear",
    "spread": 0.1,  # at 0.5 updates of all maps are larger than weights: PEFT's bf16 gradients are 90 % rounding
}
_UNET = {"methods": ("lora",), "options": {"lora": {"r": 4, "alpha": 4.0}}, "target": "attn", "curves": "small-unet"}
_UNET["libraries"] = ("limit", "ours", "peft", "peft-bf16")
_ON_FEW_BITS = ("limit", "ours", DENSE, "peft", "peft-bf16")
_WITHOUT_FULL = ("limit", "ours", "peft", "peft-bf16", "peft-liger", "peft-liger-bf16")  # which needs 110 GB at 7B
SCENARIOS = {
    s.key: s
    for s in (
        Scenario("base", "roberta-base", 32, 48, stacked=True),
        Scenario("glue", "roberta-base", 32, lengths="glue", **_LONE),
        Scenario("e2e", "gpt2-medium", 8, lengths="e2e", **_LONE),
        Scenario("large", "roberta-large", 64, 256, at_once=False, **_LONE),
        Scenario("compiled", "roberta-base", 32, 48, ("lora", "dora", "vera"), modes=("compiled", "compiled+graphs")),
        Scenario("wide", "roberta-base", 64, 128),
        Scenario("methods", "roberta-base", 32, 48, budget=294_912, **_ALL),
        Scenario("llama-1b", "llama-1b", 8, 1024, curves="llama-1b-short", **_DECODER),
        Scenario("llama-7b", "llama-7b", 2, 1024, curves="llama-7b-short", libraries=_WITHOUT_FULL, **_DECODER),
        Scenario("llama-7b-4", "llama-7b", 4, 1024, checkpointing=True, libraries=_WITHOUT_FULL, **_DECODER),
        Scenario("qlora-1b", "llama-1b", 8, 512, quantise="nf4", libraries=_ON_FEW_BITS, **_DECODER),
        Scenario(
            "qlora-7b", "llama-7b", 2, 1024, checkpointing=True, quantise="nf4-dq", libraries=_ON_FEW_BITS, **_DECODER
        ),
        Scenario("unet", "sd15-unet", 4, 64, modes=("eager", "graphs", "trained"), at_once=False, **_UNET),
        Scenario("unet-small", "small-unet", 2, 16, modes=("eager",), **_UNET),
        Scenario("small-nf4", "embedded-roberta", 32, 24, methods=("lora", "dora"), modes=("eager",), quantise="nf4"),
        Scenario("small", "embedded-roberta", 32, 24, modes=("eager",), options=_SMALL),
        Scenario("small-methods", "embedded-roberta", 32, 24, budget=12_288, **_ALL),
        Scenario("small-glue", "embedded-roberta", 32, 0, "glue", ("lora",), ("eager",)),
        Scenario("host", "roberta-thin", 2, 4, modes=("eager",), options={"vera": {"r": 16}}),
        Scenario("small-e2e", "embedded-gpt2", 8, 0, "e2e", ("lora", "dora", "vera"), ("eager",), options=_SMALL),
    )
}
"""Scenarios by key."""
GROUPS = {"qlora": ("qlora-1b", "qlora-7b")}
"""Names of several scenarios."""
DEFAULT = {"cuda": ("glue", "e2e", "large", "base"), "cpu": ("small", "small-glue", "small-e2e")}
"""Keys that are measured by default, by type of device."""
