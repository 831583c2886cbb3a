"""The cost of hooks: LoRA by forward hooks, as this project attaches it, against LoRA by replaced modules."""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from modules.efficiency.inference.timing import in_turn, ratios, synchronizer
from modules.runs.environment import environment
from variants import LoRA, attach
from variants.atomic import write_atomic
from variants.errors import UserError

SHAPES = ((4, 128, 32, 24), (12, 768, 1, 16), (12, 768, 4, 32))
"""(layers, width, batch, length)"""


class WrappedLoRA(nn.Module):
    """The usual implementation: a module that holds a linear map and adds B A x."""

    def __init__(self, base: nn.Linear, r: int) -> None:
        super().__init__()
        self.base, self.scaling = base, 1.0
        self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)"""
        return self.base(x) + self.scaling * F.linear(F.linear(x, self.A), self.B)


def hooked_and_replaced(layers: int, width: int, r: int, device: str) -> dict[str, nn.Module]:
    """The same RoBERTa bare, with hooks that do nothing, with replaced modules ("wrapped"), and with ours ("hooks")."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // 64)}
    config = RobertaConfig(vocab_size=1000, num_hidden_layers=layers, **sizes)
    bare = RobertaForSequenceClassification(config).to(device).eval().requires_grad_(False)
    hooked, replaced, empty = (copy.deepcopy(bare) for _ in range(3))
    attach(hooked, LoRA(r=r, alpha=r))
    for name in ("query", "value"):
        for layer in replaced.roberta.encoder.layer:
            attention = layer.attention.self
            setattr(attention, name, WrappedLoRA(getattr(attention, name), r).to(device))
        for layer in empty.roberta.encoder.layer:
            getattr(layer.attention.self, name).register_forward_hook(lambda module, args, output: output)
    return {"bare": bare, "no-op hooks": empty, "wrapped": replaced, "hooks": hooked}


def passes(models: dict[str, nn.Module], batch: int, length: int, train: bool) -> dict[str, Callable[[], None]]:
    """A forward pass of each model by name; with ``train`` the backward pass too of those with an adapter."""
    device = next(models["bare"].parameters()).device
    ids = torch.randint(5, 1000, (batch, length), device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def one(name: str) -> None:
        with torch.set_grad_enabled(train and name in ("wrapped", "hooks")):
            loss = models[name](ids, labels=labels).loss
            if loss.requires_grad:
                loss.backward()

    return {name: lambda name=name: one(name) for name in models}


def run(device: str, rounds: int, out: Path) -> int:
    """Measure all SHAPES, print a line for each, and write the result file ``out``. Returns the exit code.

    Raises:
        UserError: the device is not there, or there are no rounds.
    """
    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {rounds}")
    synchronize, records = synchronizer(device), []
    for layers, width, batch, length in SHAPES:
        models = hooked_and_replaced(layers, width, 8, device)
        for train in (False, True):
            timed = passes(models, batch, length, train)
            seconds = in_turn(timed, rounds, synchronize=synchronize)
            found = {name: [round(v, 4) for v in astuple(one)] for name, one in ratios(seconds, "wrapped").items()}
            base = round(1000 * statistics.median(seconds["wrapped"]), 4)
            setting = {"layers": layers, "width": width, "batch": batch, "length": length, "train": train}
            records.append(setting | {"wrapped_ms": base, "median and quartiles": found})
            shape = f"{layers} x {width}, {batch} x {length}, {'forward and backward' if train else 'forward'}"
            hooks, low, high = found["hooks"]
            print(f"{shape:42} {base:8.2f} ms wrapped   hooks {hooks:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    content = {"rounds": rounds, "runs": records, "environment": environment(device)}
    write_atomic(out, json.dumps(content, indent=1) + "\n")
    print("written:", out)
    return 0
