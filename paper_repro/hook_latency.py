"""What the hooks cost: the same LoRA by forward hooks, as this project attaches it, and by replaced modules.

    python paper_repro/hook_latency.py [--device cuda] [--out results/hook_latency.json]

One process, the ways taken in turn within each round, so that what else the machine does falls on all alike. Figures
are ratios to the replaced modules: 1.00 means that hooks cost nothing. ``no-op`` has hooks that return their input.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.atomic import write_atomic
from modules.results import environment
from variants import LoRA, attach


class WrappedLoRA(nn.Module):
    """The usual way: a module that holds the linear map and adds B A x."""

    def __init__(self, base: nn.Linear, r: int, scaling: float) -> None:
        super().__init__()
        self.base, self.scaling = base, scaling
        self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * F.linear(F.linear(x, self.A), self.B)


def ways(layers: int, width: int, r: int, device: str) -> dict[str, nn.Module]:
    """The same RoBERTa with q and v adapted in three ways, and bare."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    config = RobertaConfig(vocab_size=1000, num_hidden_layers=layers, **sizes)
    bare = RobertaForSequenceClassification(config).to(device).eval().requires_grad_(False)
    hooked, wrapped, empty = (copy.deepcopy(bare) for _ in range(3))
    attach(hooked, LoRA(r=r, alpha=r))
    for layer in wrapped.roberta.encoder.layer:
        attention = layer.attention.self
        for name in ("query", "value"):
            setattr(attention, name, WrappedLoRA(getattr(attention, name), r, 1.0).to(device))
    for layer in empty.roberta.encoder.layer:
        for name in ("query", "value"):
            getattr(layer.attention.self, name).register_forward_hook(lambda module, args, output: output)
    return {"bare": bare, "no-op hooks": empty, "wrapped": wrapped, "hooks": hooked}


def measure(models: dict[str, nn.Module], batch: int, length: int, rounds: int, train: bool) -> dict[str, list[float]]:
    """Seconds of one forward (and backward) pass, by way and round."""
    device = next(models["bare"].parameters()).device
    ids = torch.randint(5, 1000, (batch, length), device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for current in range(-3, rounds):  # three rounds to warm up
        for name, model in models.items():
            start = time.perf_counter()
            with torch.set_grad_enabled(train and name in ("wrapped", "hooks")):
                loss = model(ids, labels=labels).loss
                if loss.requires_grad:
                    loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if current >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("results/hook_latency.json"))
    options = parser.parse_args()
    records = []
    for layers, width, batch, length in ((4, 128, 32, 24), (12, 768, 1, 16), (12, 768, 4, 32)):
        models = ways(layers, width, 8, options.device)
        for train in (False, True):
            seconds = measure(models, batch, length, options.rounds, train)
            reference = statistics.median(seconds["wrapped"])
            ratios = {name: statistics.median(times) / reference for name, times in seconds.items()}
            paired = sorted(a / b for a, b in zip(seconds["hooks"], seconds["wrapped"], strict=True))
            low, high = paired[len(paired) // 4], paired[3 * len(paired) // 4]
            setting = {"layers": layers, "width": width, "batch": batch, "length": length, "train": train}
            records.append(setting | {"wrapped_ms": 1000 * reference, "ratios": ratios, "quartiles": [low, high]})
            shape = f"{layers} x {width}, {batch} x {length}, {'forward and backward' if train else 'forward'}"
            print(
                f"{shape:42} {1000 * reference:8.2f} ms wrapped   hooks {ratios['hooks']:.3f} [{low:.3f}, {high:.3f}]"
            )
    write_atomic(
        options.out, json.dumps({"runs": records, "environment": environment(options.device)}, indent=1) + "\n"
    )
    print("written:", options.out)


if __name__ == "__main__":
    main()
