"""The implementations of a training step: library x method x mode."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 8, "alpha": 8.0},
    "dora": {"r": 8, "alpha": 8.0},
    "vera": {"r": 1024},
    "adalora": {"init_r": 12, "target_r": 8, "alpha": 16.0, "tinit": 10.0, "tfinal": 1000.0},
}
"""Hyperparameters of each method, the same in every library; on q and v."""
STACKED = 5
"""Seeds in a stacked step."""
TOGETHER = f"ours-x{STACKED}"
"""Five seeds of LoRA stacked in one step, each on a batch of its own."""
LIMIT_TOGETHER = f"limit-x{STACKED}"
"""The limit on as many rows as the stacked seeds have."""
LIMIT_PACKED = "limit-packed"
"""The limit on batches without padding, as ours trains on: the difference between the two is the adapter's cost."""
REFERENCE = "ours-reference"
"""Ours with all acceleration switched off: padded batches, no accelerated pass, eager alone."""
DENSE = "ours-16bit"
"""Ours on the base as it is before it is quantised, in scenarios of bases in few bits."""
WITH_LIGER = ("peft-liger", "peft-liger-bf16")
"""PEFT's two precisions on a decoder whose code Liger has replaced, losses included."""
WAITING = ("full", "peft", "peft-bf16")
"""Those whose decoders look at values of the GPU, as for their losses: no graph holds their steps."""
LIBRARIES = (
    "limit", LIMIT_PACKED, LIMIT_TOGETHER, "full", "ours", DENSE, REFERENCE, TOGETHER, "peft", "peft-bf16", *WITH_LIGER
)  # fmt: skip
WITHOUT_METHOD = ("limit", LIMIT_PACKED, LIMIT_TOGETHER, "full")
MODES = ("eager", "compiled", "graphs", "compiled+graphs", "trained")
"""``graphs``: the whole step, optimizer included, as one CUDA graph for each shape; ``trained``: as this project's
command trains (`modules.acceleration.cuda_graphs`)."""


@dataclass(frozen=True)
class Implementation:
    """A library, a method and a mode in which the step is taken."""

    library: str
    method: str
    mode: str

    @property
    def name(self) -> str:
        """Such as ``ours lora graphs`` or ``limit eager``."""
        return " ".join(part for part in (self.library, self.method, self.mode) if part)


def grid(
    methods: tuple[str, ...],
    modes: tuple[str, ...],
    patterns: tuple[str, ...] = (),
    bf16: bool = True,
    stacked: bool = True,
    packed: bool = True,
    reference: bool = False,
    decoder: bool = False,
    quantised: bool = False,
) -> list[Implementation]:
    """Every implementation of these methods in these modes; AdaLoRA's by PEFT come last, as their failing captures may
    disturb those that follow.

    Args:
        patterns: globs over beginnings of names (``ours lora``); empty: all.
        bf16: the measurement is in bf16, where PEFT has two precisions.
        stacked: stacked seeds too.
        packed: the limit without padding too, for backbones that can train without padding.
        reference: ours without acceleration too.
        decoder: the backbone is one that Liger has kernels for: PEFT with them too, and eager, as its loss waits for
            a value of the GPU.
        quantised: the base is in few bits: ours on the dense base too.
    """
    found = []
    for library in LIBRARIES:
        left_out = {"peft-bf16": not bf16, LIMIT_PACKED: not packed, REFERENCE: not reference, DENSE: not quantised}
        left_out |= dict.fromkeys(WITH_LIGER, not decoder)
        if left_out.get(library):
            continue
        for method in methods if library not in WITHOUT_METHOD else ("",):
            for mode in modes:
                if mode == "trained" and library not in ("ours", DENSE, TOGETHER):
                    continue
                if mode != "eager" and (library in (REFERENCE, *WITH_LIGER) or (decoder and library in WAITING)):
                    continue
                together = library in (TOGETHER, LIMIT_TOGETHER)
                if together and not (stacked and method in ("lora", "") and "compiled" not in mode):
                    continue
                if mode.startswith("compiled") and (method == "adalora" or library in ("peft", LIMIT_PACKED)):
                    continue  # AdaLoRA breaks its graph; PEFT's faster precision is compiled; packed is never compiled
                found.append(Implementation(library, method, mode))
    found.sort(key=lambda one: one.method == "adalora" and one.library.startswith("peft"))
    return [one for one in found if not patterns or any(fnmatchcase(one.name, f"{p}*") for p in patterns)]
