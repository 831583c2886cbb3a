"""A GLUE task by transformers' Trainer and PEFT's LoRA, for the comparison of whole jobs.

    python -m modules.efficiency.jobs.hf_trainer_job SETTINGS.json

It is written as a user would write it: dynamic padding to the longest row, fused AdamW,
bf16 on a GPU, an evaluation and a checkpoint after each epoch. Rows come in the order of ours.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset, Sampler

from modules.processes import end_with_parent
from variants.atomic import write_atomic


class Rows(Dataset):
    """Tokenised rows as dictionaries."""

    def __init__(self, split: Any, tokenizer: Any, max_length: int) -> None:
        columns = map(list, zip(*split.texts, strict=True))
        self.encoded = tokenizer(*columns, truncation=True, max_length=max_length)
        self.labels = split.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: value[index] for key, value in self.encoded.items()} | {"labels": self.labels[index]}


class SameOrder(Sampler[int]):
    """The rows of epoch 0, 1, ... in the order in which `modules.data.samplers.TrainBatches` gives them."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        order = np.random.RandomState([self.seed, self.epoch]).permutation(self.rows)
        self.epoch += 1
        return iter(order.tolist())


class Trainer(transformers.Trainer):
    """transformers' Trainer on the same batches as ours."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[int]:
        return SameOrder(len(self.train_dataset), self.args.seed)


def main(settings: dict[str, Any]) -> None:
    """Train, evaluate, and write ``result``: the metrics and the seconds from `Trainer.train` to the file."""
    import peft

    from modules.benchmarks.glue.sources import FolderSource
    from modules.benchmarks.glue.tasks import TASKS

    task, lr, epochs, batch = TASKS[settings["task"]], settings["lr"], settings["epochs"], settings["batch_size"]
    splits = FolderSource(settings["data_dir"]).load(task)
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["model"], trust_remote_code=False)
    data = {name: Rows(split, tokenizer, settings["max_length"]) for name, split in splits.items()}
    transformers.set_seed(settings["seed"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        settings["model"], num_labels=task.num_labels, trust_remote_code=False
    )
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], **settings["lora"])
    steps = epochs * -(-len(data["train"]) // batch)
    arguments = transformers.TrainingArguments(
        output_dir=settings["folder"],
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=settings["eval_batch_size"],
        num_train_epochs=epochs,
        learning_rate=lr,
        warmup_steps=int(settings["warmup_ratio"] * steps),
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["gradient_clip_val"],
        optim="adamw_torch_fused",
        bf16=settings["bf16"],
        use_cpu=settings["cpu"],
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        seed=settings["seed"],
    )
    trainer = Trainer(
        model=peft.get_peft_model(model, config),
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    start = time.perf_counter()
    trainer.train()
    path = Path(settings["result"])
    write_atomic(path, json.dumps({"epochs": trainer.state.log_history}))
    seconds = time.perf_counter() - start
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    write_atomic(path, json.dumps({"seconds": seconds, "epochs": trainer.state.log_history, "versions": versions}))


if __name__ == "__main__":
    end_with_parent()
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
