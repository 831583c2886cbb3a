"""What is scaled: a command, a backbone and rows of real lengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.data.source import Source
from modules.data.task import Task
from modules.efficiency.jobs.model_folder import write_model
from modules.efficiency.steps.backbones import is_language_model, sizes
from variants.errors import UserError


@dataclass(frozen=True)
class Workload:
    """A fine-tuning job that is scaled.

    Attributes:
        shape: the backbone, a key of `modules.efficiency.steps.backbones.SHAPES` or an embedded one; also the key.
        benchmark: glue or e2e.
        task: of the benchmark.
        rows: of a batch on one GPU. Weak scaling keeps them on each GPU, strong scaling over all of them.
        vocabulary: of the tokenizer that is trained on the task's sentences, chosen so that rows have about as many
            tokens as with the published tokenizer (MRPC: 53; E2E: 53).
        peft: what is measured of PEFT beside it: names of `modules.efficiency.scaling.peft_job.WAYS`.
    """

    shape: str
    benchmark: str
    task: str
    rows: int
    vocabulary: int = 0
    peft: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Such as ``roberta-base, MRPC, 32 rows for each GPU``."""
        return f"{self.shape}, {self.task.upper()}, {self.rows} rows for each GPU"

    @property
    def embedded(self) -> bool:
        """Whether the backbone ships with the project."""
        return self.shape.startswith("embedded")

    @property
    def packed(self) -> bool:
        """Whether training leaves padding out (BERTs)."""
        return not is_language_model(sizes(self.shape))

    def source(self, folder: Path | None) -> tuple[Source, Task]:
        """Where its rows come from, by default the project's generator, and its task."""
        if self.benchmark == "glue":
            from modules.benchmarks.glue.sources import EmbeddedSource, FolderSource
            from modules.benchmarks.glue.tasks import TASKS
        else:
            from modules.benchmarks.e2e.sources import EmbeddedSource, FolderSource
            from modules.benchmarks.e2e.tasks import TASKS
        return (FolderSource(folder) if folder else EmbeddedSource()), TASKS[self.task]

    def model(self, scratch: Path, folder: Path | None) -> Path:
        """The folder of its backbone, written below ``scratch`` in random weights unless it ships with the project."""
        if self.embedded:
            from modules.embedded import GPT2, ROBERTA

            return ROBERTA if self.packed else GPT2
        source, task = self.source(folder)
        sentences = [text for texts in source.load(task)["train"].texts for text in texts]
        return write_model(scratch / f"{self.shape}-random", self.shape, sentences, self.vocabulary)


GPU = (
    Workload("roberta-base", "glue", "mrpc", 32, 14_000, ("eager", "eager bf16", "compiled bf16", "graphs bf16")),
    Workload("roberta-large", "glue", "mrpc", 32, 14_000, ("eager bf16", "graphs bf16")),
    Workload("gpt2-medium", "e2e", "e2e", 8, 850, ("eager bf16",)),
)
"""The workloads of the project's thresholds."""
CPU = (Workload("embedded-roberta", "glue", "mrpc", 32, peft=("eager",)),)
"""A small one that shows, without a GPU, that the measurement works."""


def workload(shape: str) -> Workload:
    """The workload of a backbone. Raises UserError where a result file names one that there is not."""
    known = {one.shape: one for one in (*GPU, *CPU)}
    if shape not in known:
        raise UserError(f"--scaling has no workload {shape!r}; there are {', '.join(known)}")
    return known[shape]


def plan_of_steps(rows: int, batch: int, steps: int, epochs: int) -> tuple[int, int]:
    """(steps of an epoch, epochs): as many steps in all whatever the batch, none of a smaller batch.

    Args:
        rows: of the training data.
        batch: rows of a step over all processes.
        steps, epochs: what is wanted where the rows suffice.
    """
    each = max(1, min(steps, rows // batch))
    return each, max(2, -(-steps * epochs // each))


def steady(epoch_ms: list[float]) -> float:
    """The median over the later half of the epochs: graphs are captured in the first ones."""
    import numpy as np

    return float(np.median(epoch_ms[len(epoch_ms) // 2 :]))


def counts(gpus: int) -> list[int]:
    """1, 2, 4, ... and all of them."""
    return sorted({2**power for power in range(gpus.bit_length()) if 2**power <= gpus} | {gpus})


def run_name(gpus: int, rows: int) -> str:
    """The name of a measurement: ``2x16`` is two GPUs with 16 rows each."""
    return f"{gpus}x{rows}"


def runs_of(rows: int, gpus: int) -> dict[str, tuple[int, int]]:
    """Every run of a round by its name, as (GPUs, rows of each): weak scaling, then strong where rows divide evenly."""
    pairs = [(n, each) for n in counts(gpus) for each in (rows, rows // n) if each * n in (rows, rows * n)]
    return {run_name(*pair): pair for pair in dict.fromkeys(pairs)}


Record = dict[str, Any]
"""A workload as result files keep it: ``runs`` by name, with ``rounds_ms``; ``peft`` by way; ``bytes`` of gradients."""
