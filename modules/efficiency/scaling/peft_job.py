"""A workload by PEFT's LoRA under accelerate, as its user would write it: a job of several processes.

    python -m modules.efficiency.scaling.peft_job SETTINGS.json     # in each, with the variables of accelerate launch

DistributedDataParallel, batches padded in buckets, fused AdamW, the rows of ours in the same order.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader

from modules.data.padding import EDGES, PaddedRows
from modules.data.samplers import TrainBatches
from modules.data.tokens import tokenise
from modules.efficiency.scaling.workloads import Workload, workload
from modules.efficiency.steps.backbones import Batch, loss_of
from modules.efficiency.steps.peft_implementation import theirs
from modules.processes import end_with_parent
from variants.atomic import write_atomic

COMPILED = {"compiled": "default", "graphs": "reduce-overhead"}
"""torch.compile's mode by the first word of a way."""
WAYS = ("eager", "eager bf16", "compiled", "compiled bf16", "graphs", "graphs bf16")
"""Eager, torch.compile, torch.compile with CUDA graphs. Adapters are fp32 under autocast, or bf16 without it; the
backbone is bf16 in both."""


class Loss(nn.Module):
    """A model with its loss, so that its forward pass has one output.

    Args:
        model: transformers' or PEFT's.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """A batch -> the scalar loss."""
        return loss_of(self.model, batch)


def main(settings: dict[str, Any]) -> None:
    """Train for some epochs and write ``result`` on rank 0: ``epoch_ms``, mean step times, and the last loss.

    Args:
        settings: ``shape`` of the workload, ``way``, ``model``, ``data``, ``batch`` (rows over all processes),
            ``steps`` of an epoch, ``epochs``, ``gpu``, ``lora``, ``lr``, ``clip``, ``max_length``, ``result``.
    """
    from accelerate import Accelerator
    from accelerate.utils import TorchDynamoPlugin

    work, (mode, _, low) = workload(settings["shape"]), settings["way"].partition(" ")
    bf16 = settings["gpu"] or bool(low)
    compiler = TorchDynamoPlugin(backend="inductor", mode=COMPILED[mode]) if mode in COMPILED else None
    accelerator = Accelerator(
        cpu=not settings["gpu"], mixed_precision="bf16" if bf16 and not low else "no", dynamo_plugin=compiler
    )
    loader, order = _loader(work, settings, accelerator)
    transformers.set_seed(0)
    trainee = theirs(_model(work, settings["model"]), "lora", settings["lora"], bf16, bool(low))
    inner = trainee.handle if work.packed else trainee.handle.get_base_model()
    optimizer = torch.optim.AdamW(trainee.parameters, lr=settings["lr"], fused=settings["gpu"])
    total = settings["steps"] * settings["epochs"]
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, total // 16, total)
    model, optimizer = accelerator.prepare(Loss(inner).to(accelerator.device), optimizer)
    epoch_ms = []
    for epoch in range(settings["epochs"]):
        order.set_epoch(epoch)
        batches = iter(loader)
        start = time.perf_counter()
        for batch in itertools.islice(batches, settings["steps"]):
            loss = model({name: part.to(accelerator.device, non_blocking=True) for name, part in batch.items()})
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trainee.parameters, settings["clip"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        last = loss.item()
        epoch_ms.append(round(1000 * (time.perf_counter() - start) / settings["steps"], 3))
        del batches
    if accelerator.is_main_process:
        write_atomic(Path(settings["result"]), json.dumps({"epoch_ms": epoch_ms, "loss": round(last, 4)}))
    accelerator.end_training()


def _model(work: Workload, folder: str) -> nn.Module:
    auto = transformers.AutoModelForSequenceClassification if work.packed else transformers.AutoModelForCausalLM
    options = {"num_labels": 2} if work.packed else {"use_cache": False}
    return auto.from_pretrained(folder, trust_remote_code=False, attn_implementation="sdpa", **options).train()


def _loader(work: Workload, settings: dict[str, Any], accelerator: Any) -> tuple[DataLoader, TrainBatches]:
    """The batches of ours for this rank, padded, and their order."""
    source, task = work.source(settings["data"] and Path(settings["data"]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["model"], trust_remote_code=False)
    splits, most = source.load(task), settings["max_length"]
    rows_type, units = PaddedRows, None
    if work.benchmark == "glue":
        tokens = tokenise({"train": splits["train"]}, tokenizer, most, source.hash(task))["train"]
    else:
        from modules.benchmarks.causal.targets import TargetRows
        from modules.benchmarks.e2e.data import encode

        tokens = encode(splits, tokenizer, most, "authors", source.hash(task))["train"]
        rows_type, units = TargetRows, tokens.labels
    place = (accelerator.process_index, accelerator.num_processes)
    order = TrainBatches(len(tokens), settings["batch"], 0, *place, fill=True, units=units, lengths=tokens.lengths)
    rows = rows_type(tokens, tokenizer.pad_token_id or 0, [edge for edge in EDGES if edge <= most], fill=True)
    loader = DataLoader(rows, sampler=order, batch_size=None, collate_fn=_as_is, pin_memory=settings["gpu"])
    return loader, order


def _as_is(batch: Batch) -> Batch:
    return batch


if __name__ == "__main__":
    end_with_parent()
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
