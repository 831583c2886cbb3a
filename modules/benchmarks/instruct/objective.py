"""What instruction tuning asks of a language model: the responses' tokens, and after training the task's scores."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from modules.benchmarks.causal.objective import CausalLM
from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores.scoring import Answers, scored
from modules.benchmarks.objective import Objective, Samples
from modules.documents import read_text
from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic

SAMPLES = 20
"""Answers that dashboards show."""


class Instruction(CausalLM):
    """Mean cross-entropy of the responses' tokens; the best epoch has the least on the dev set.

    Args:
        test: what is scored after training; none: nothing.
        answers: how answers are made and scored.
        score_epoch: "best", "last", or "none", which leaves the test rows alone.
    """

    metric = "neg_perplexity"
    scores_frozen = True

    def __init__(self, test: Sequence[Example], answers: Answers | None, score_epoch: str) -> None:
        super().__init__()
        self.examples, self.answers, self.score_epoch = list(test), answers, score_epoch

    def of_loss(self, loss: float) -> dict[str, float]:
        """Minus the perplexity of the dev set's responses: exp of the mean loss of their tokens."""
        return {self.metric: -math.exp(min(loss, 700.0))}

    def figures_of_each(self, module: LightningModule, each: Sequence[Objective]) -> list[dict[str, float]]:
        """None but those of the loss."""
        return [{} for _ in each]

    def test(self, module: LightningModule, adapted: AdaptedModel, folder: Path) -> dict[str, Any] | None:
        """The scores of the test rows: see :meth:`test_each`."""
        return self.test_each(module, module.restore if adapted.trained() else None, [folder])[0]

    def test_each(
        self, module: LightningModule, restore: Callable[[int, Path], None] | None, folders: Sequence[Path]
    ) -> list[dict[str, Any] | None]:
        """The scores of each adapter's answers, with its `epoch` and `decode_s`; None where nothing is scored.

        Leaves `answers.jsonl` in each run's folder.
        """
        if self.answers is None or not self.examples or self.score_epoch == "none":
            return [None] * len(folders)
        module.to(module.trainer.strategy.root_device)
        states, epochs = self.bring_back(module, restore, folders, self.score_epoch)
        keep, start = folders[0] / "decoding" / "-".join(states), time.perf_counter()
        every = scored(module.model, self.examples, self.answers, len(folders), keep)
        seconds = time.perf_counter() - start
        if not module.trainer.is_global_zero:
            return [None] * len(folders)
        found = []
        for (figures, outputs), folder, epoch in zip(every, folders, epochs, strict=True):
            lines = [json.dumps({"answer": text, **_asked(e)}, ensure_ascii=False)
                     for e, text in zip(self.examples, outputs, strict=True)]  # fmt: skip
            write_atomic(folder / "answers.jsonl", "\n".join(lines) + "\n")
            found.append({"epoch": epoch, **figures, "decode_s": round(seconds, 2)})
        shutil.rmtree(folders[0] / "decoding", ignore_errors=True)
        return found

    def samples(self, folder: Path) -> Samples | None:
        """The first answers, with what was asked and what was to be said."""
        if not (folder / "answers.jsonl").is_file():
            return None
        rows = [json.loads(line) for line in read_text(folder / "answers.jsonl").splitlines()[:SAMPLES]]
        columns = ("instruction", "answer", "response")
        return "test/answers", columns, [tuple(row[name] for name in columns) for row in rows]


def _asked(example: Example) -> dict[str, str]:
    return {"instruction": example.prompt, "response": example.response, "part": example.part}
