"""What the hooks cost: the same LoRA by forward hooks, as this project attaches it, and by replaced modules.

    python paper_repro/hook_latency.py
    python paper_repro/hook_latency.py --device cuda --out results/latency/hooks-cuda.json

The ways are taken in turn within each round. Figures are ratios to the replaced modules: 1.00
means that hooks cost nothing. ``no-op`` has hooks that return their input, ``bare`` is the plain model.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from modules.efficiency.timing import in_turn, ratios, synchronizer
from variants.atomic import write_atomic
from variants.errors import UserError

SHAPES = ((4, 128, 32, 24), (12, 768, 1, 16), (12, 768, 4, 32))
"""(layers, width, batch, length)"""


@functools.cache
def wrapper() -> type:
    """The usual way: a module that holds a linear map and adds B A x."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class WrappedLoRA(nn.Module):
        def __init__(self, base: nn.Linear, r: int) -> None:
            super().__init__()
            self.base, self.scaling = base, 1.0
            self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features)
            self.B = nn.Parameter(torch.zeros(base.out_features, r))

        def forward(self, x):
            return self.base(x) + self.scaling * F.linear(F.linear(x, self.A), self.B)

    return WrappedLoRA


def ways(layers: int, width: int, r: int, device: str) -> dict[str, Any]:
    """The same RoBERTa with q and v adapted in three ways, and bare."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    from variants import LoRA, attach

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // 64)}
    config = RobertaConfig(vocab_size=1000, num_hidden_layers=layers, **sizes)
    bare = RobertaForSequenceClassification(config).to(device).eval().requires_grad_(False)
    hooked, replaced, empty = (copy.deepcopy(bare) for _ in range(3))
    attach(hooked, LoRA(r=r, alpha=r))
    for name in ("query", "value"):
        for layer in replaced.roberta.encoder.layer:
            attention = layer.attention.self
            setattr(attention, name, wrapper()(getattr(attention, name), r).to(device))
        for layer in empty.roberta.encoder.layer:
            getattr(layer.attention.self, name).register_forward_hook(lambda module, args, output: output)
    return {"bare": bare, "no-op hooks": empty, "wrapped": replaced, "hooks": hooked}


def passes(models: dict[str, Any], batch: int, length: int, train: bool) -> dict[str, Callable[[], None]]:
    """One forward pass by way, and the backward pass too of what trains."""
    import torch

    device = next(models["bare"].parameters()).device
    ids = torch.randint(5, 1000, (batch, length), device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def one(name: str) -> None:
        with torch.set_grad_enabled(train and name in ("wrapped", "hooks")):
            loss = models[name](ids, labels=labels).loss
            if loss.requires_grad:
                loss.backward()

    return {name: lambda name=name: one(name) for name in models}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--rounds", type=int, default=60, help="(default: 60)")
    parser.add_argument("--out", type=Path, default=Path("results/latency/hooks.json"))
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {options.rounds}")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    from modules.runs.environment import environment

    synchronize, records = synchronizer(options.device), []
    for layers, width, batch, length in SHAPES:
        models = ways(layers, width, 8, options.device)
        for train in (False, True):
            timed = passes(models, batch, length, train)
            seconds = in_turn(timed, options.rounds, synchronize=synchronize)
            found = {name: [round(v, 4) for v in astuple(one)] for name, one in ratios(seconds, "wrapped").items()}
            base = round(1000 * statistics.median(seconds["wrapped"]), 4)
            setting = {"layers": layers, "width": width, "batch": batch, "length": length, "train": train}
            records.append(setting | {"wrapped_ms": base, "median and quartiles": found})
            shape = f"{layers} x {width}, {batch} x {length}, {'forward and backward' if train else 'forward'}"
            hooks, low, high = found["hooks"]
            print(f"{shape:42} {base:8.2f} ms wrapped   hooks {hooks:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    content = {"rounds": options.rounds, "runs": records, "environment": environment(options.device)}
    write_atomic(options.out, json.dumps(content, indent=1) + "\n")
    print("written:", options.out)
    return 0


if __name__ == "__main__":
    from modules.command_line import guarded

    sys.exit(guarded(main))
