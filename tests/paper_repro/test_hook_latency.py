"""Hooks and replaced modules compute the same, and the command writes its figures."""

from __future__ import annotations

import itertools
import json

import torch

from modules.efficiency.inference import hook_latency as hooks
from paper_repro import hook_latency


@torch.no_grad()
def test_hooks_and_replaced_modules_compute_the_same() -> None:
    models = hooks.hooked_and_replaced(layers=1, width=64, r=2, device="cpu")
    ids = torch.randint(5, 1000, (2, 6))
    out = {name: model(ids).logits for name, model in models.items()}
    for a, b in itertools.combinations(out.values(), 2):
        assert torch.allclose(a, b, atol=1e-6)  # B = 0
    for name in ("wrapped", "hooks"):
        adapters = [p for n, p in models[name].named_parameters() if n.endswith((".B", "lora_B"))]
        assert len(adapters) == 2
        for p in adapters:
            p.add_(1)
        assert not torch.allclose(models[name](ids).logits, out["bare"], atol=1e-4)


def test_hook_command_writes_its_figures(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(hooks, "SHAPES", ((1, 64, 2, 5),))
    out = tmp_path / "hooks.json"
    assert hook_latency.main(["--rounds", "3", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [run["train"] for run in result["runs"]] == [False, True]
    assert all(run["median and quartiles"]["wrapped"] == [1, 1, 1] for run in result["runs"])
