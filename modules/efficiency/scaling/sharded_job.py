"""What sharing a large model saves: peak memory and step time of a decoder, whole on one GPU or in shards on several.

    python -m modules.efficiency.scaling.sharded_job SETTINGS.json     # in each process, with torchrun's variables

The batch is the same in all: each process takes its rows of it, as `--trainer.devices` has it. Both sides take plain
eager steps, without `variants.acceleration`, whose joined weights would make one GPU look worse.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from modules.acceleration.cuda_graphs import GraphedStep
from modules.processes import end_with_parent
from modules.training.parallel.sharded import shard_base
from variants import LoRA, attach
from variants.atomic import write_atomic

DRAWN = 2**22
"""Random numbers that all weights are made of: drawing seven billion would take minutes."""


def main(settings: dict[str, Any]) -> None:
    """Take some steps, and write ``result`` on rank 0: ``peak_mb`` (MiB, of the fullest device; null on a CPU),
    ``step_ms`` (median after the first), ``loss`` of the first step, and ``trained`` parameters.

    Args:
        settings: ``config`` of a LLaMA, ``r``, ``rows`` of the batch over all processes, ``width`` in tokens,
            ``steps``, ``gpu``, ``result``.
    """
    rank, world, gpu = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), settings["gpu"]
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
    base = llama(settings["config"], torch.bfloat16 if gpu else torch.float32)
    adapted = attach(base, LoRA(r=settings["r"], target="all-linear"), 0)
    if world > 1:
        shard_base(adapted, init_device_mesh(device.type, (world,)))
    model = adapted.model.to(device).train()
    parameters = list(adapted.trained().values())
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (settings["rows"], settings["width"]), generator=drawn)
    batch = {"input_ids": ids[rank::world].to(device)}
    step = GraphedStep(lambda batch: (model(**batch, labels=batch["input_ids"]).loss,), parameters, graphs=False)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    losses, times = [], []
    for _ in range(settings["steps"]):
        start = time.perf_counter()
        step.zero()
        (loss,) = step(batch)
        step.average()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())  # waits for the device
        times.append(1000 * (time.perf_counter() - start))
    found = torch.tensor([losses[0], torch.cuda.max_memory_allocated() / 2**20 if gpu else 0.0], device=device)
    each = [torch.empty_like(found) for _ in range(world)]
    dist.all_gather(each, found)
    if rank == 0:
        peak = max(other[1].item() for other in each)
        result = {"peak_mb": round(peak, 1) if gpu else None, "step_ms": round(statistics.median(times[1:]), 2)}
        result |= {"loss": sum(other[0].item() for other in each) / world}
        write_atomic(Path(settings["result"]), json.dumps(result | {"trained": sum(p.numel() for p in parameters)}))
    dist.destroy_process_group()


def llama(config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A LLaMA on the CPU with weights like random ones, the same in every process, without a cache."""
    settings = transformers.LlamaConfig(**config, use_cache=False)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(settings, dtype=dtype)
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(settings)  # its buffers are no parameters
    drawn = (0.02 * torch.randn(DRAWN, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1)  # norms
                continue
            for piece in parameter.view(-1).split(DRAWN):
                piece.copy_(drawn[: len(piece)])
    return model


if __name__ == "__main__":
    end_with_parent()
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
