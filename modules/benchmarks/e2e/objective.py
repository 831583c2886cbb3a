"""What E2E asks of a language model: the sentence's tokens, greedy outputs on the dev set, beam search on the test."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from modules.benchmarks.causal.decode import Decoding, decode_each
from modules.benchmarks.causal.objective import CausalLM
from modules.benchmarks.e2e.data import Inputs
from modules.benchmarks.objective import Objective, Samples
from modules.documents import read_text
from modules.scores import FORMULAS, score, versions
from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic
from variants.formats.native import restore

SAMPLES = 20
"""Outputs that dashboards show."""


class Generation(CausalLM):
    """Label-smoothed cross-entropy of the targets: (1 - eps) nll + eps (mean nll over the vocabulary).

    The mean is over the target tokens of the global batch, as in microsoft/LoRA, examples/NLG/src/model.py; smoothing
    is for training alone. No logits are computed where there is no target.

    Args:
        inputs: "validation" and "test", grouped by meaning representation.
        decoding: of the test set; the dev curve is greedy.
        score_epoch: "best", "last", or "none", which leaves the test set alone (a learning rate is picked without it).
    """

    metric = "BLEU"
    scores_frozen = True

    def __init__(
        self, inputs: dict[str, Inputs], tokenizer, decoding: Decoding, label_smoothing: float, score_epoch: str
    ) -> None:
        super().__init__()
        self.inputs, self.tokenizer, self.decoding = inputs, tokenizer, decoding
        self.label_smoothing, self.score_epoch = label_smoothing, score_epoch

    def figures(self, module: LightningModule) -> dict[str, float]:
        """Greedy BLEU on the dev set."""
        return self.figures_of_each(module, [self])[0]

    def figures_of_each(self, module: LightningModule, each: Sequence[Objective]) -> list[dict[str, float]]:
        """Greedy BLEU on the dev set for each stacked adapter; they decode together."""
        dev = self.inputs["validation"]
        every = decode_each(module.model, dev.ids, self.tokenizer, self.decoding.greedy(), len(each))
        return [{"BLEU": FORMULAS["BLEU"](outputs, dev.references)} for outputs in every]

    def test(self, module: LightningModule, adapted: AdaptedModel, folder: Path) -> dict[str, Any] | None:
        """The five scores of the test set, `epoch`, `decode_s`, by score what it lacked (`missing`), and `scorers`.

        Leaves `test.txt` (an output per line, in the order of the test file) and `test_references.txt` in the run's
        folder. None in a process that is not the first of several.
        """
        trained = (lambda _, file: restore(adapted, file)) if adapted.trained() else None
        return self.test_each(module, trained, [folder])[0]

    def test_each(
        self, module: LightningModule, restore: Callable[[int, Path], None] | None, folders: Sequence[Path]
    ) -> list[dict[str, Any] | None]:
        """The scores of `test` for each stacked adapter; they decode together."""
        if self.score_epoch == "none":
            return [None] * len(folders)
        module.to(module.trainer.strategy.root_device)
        states, epochs = self.bring_back(module, restore, folders, self.score_epoch)
        keep = folders[0] / "decoding" / "-".join(states)
        start, test = time.perf_counter(), self.inputs["test"]
        every = decode_each(module.model, test.ids, self.tokenizer, self.decoding, len(folders), keep)
        seconds = time.perf_counter() - start
        if not module.trainer.is_global_zero:
            return [None] * len(folders)
        found = [self._scored(*each, seconds) for each in zip(every, folders, epochs, strict=True)]
        shutil.rmtree(folders[0] / "decoding", ignore_errors=True)
        return found

    def _scored(self, outputs: list[str], folder: Path, epoch: int, seconds: float) -> dict[str, Any]:
        """Leave outputs and references in a run's folder; its figures."""
        references = self.inputs["test"].references
        write_atomic(folder / "test.txt", "\n".join(outputs) + "\n")
        write_atomic(folder / "test_references.txt", "\n\n".join("\n".join(group) for group in references) + "\n")
        values, missing = score(outputs, references)
        for name, lack in missing.items():
            print(f"{name} is left out: {lack}", flush=True)
        figures = {"epoch": epoch, **values, "decode_s": round(seconds, 2)}
        return figures | {"missing": missing, "scorers": versions()}

    def samples(self, folder: Path) -> Samples | None:
        """The first outputs of the test set, with what was to be said and a reference."""
        if not (folder / "test.txt").is_file():
            return None
        outputs, test = read_text(folder / "test.txt").splitlines(), self.inputs["test"]
        rows = [(mr, output, group[0]) for mr, output, group in zip(test.mrs, outputs, test.references, strict=False)]
        return "test/outputs", ("meaning", "output", "reference"), rows[:SAMPLES]
