"""The E2E challenge's scores as torchmetrics: texts are kept and scored once, the same on any number of processes.

    metrics = e2e_metrics()
    metrics.update(outputs, references, indices)
    metrics.compute()  # {"BLEU": ..., "NIST": ..., ...}

torchmetrics gathers tensors, so an example is held as a line of JSON, `[index, output, references]`, in a tensor of its
bytes. After gathering, examples are put in the order of their indices and each index counts once: the corpus, and with
it every score to the last bit, is what one process would have seen, and rows that a sampler repeated do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from modules.scores import FORMULAS, check, java


class E2EMetric(Metric):
    """One of the five scores; ``name`` says which."""

    name: str
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    examples: list[Tensor]

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # float32, exact for bytes: torchmetrics gives a process without examples an empty float tensor to gather.
        self.add_state("examples", default=[], dist_reduce_fx="cat")

    def update(self, outputs: Sequence[str], references: Sequence[Sequence[str]], indices: Sequence[int]) -> None:
        """Adds B outputs, B groups of references, and the B places of these inputs in the whole set.

        Raises UserError for counts that differ and for a group without references.
        """
        check(outputs, references)
        rows = zip(map(int, indices), outputs, map(list, references), strict=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
        self.examples.append(torch.frombuffer(bytearray(lines), dtype=torch.uint8).to(self.device, torch.float32))

    def corpus(self) -> tuple[list[str], list[list[str]]]:
        """(N outputs, N groups of references) of all processes, in the order of their indices."""
        state = self.examples
        held = torch.cat(state) if isinstance(state, list) else state
        lines = bytes(held.to("cpu", torch.uint8).tolist()).decode("ascii").splitlines()
        rows = {row[0]: row[1:] for row in map(json.loads, reversed(lines))}
        ordered = [rows[index] for index in sorted(rows)]
        return [output for output, _ in ordered], [group for _, group in ordered]

    def compute(self) -> Tensor:
        """The score of the whole corpus (float64 scalar on the CPU)."""
        return torch.tensor(FORMULAS[self.name](*self.corpus()), dtype=torch.float64)


class Bleu(E2EMetric):
    """mteval-v13a's BLEU (`modules.scores.mteval.bleu`), in [0, 1]."""

    name = "BLEU"


class Nist(E2EMetric):
    """mteval-v13a's NIST (`modules.scores.mteval.nist`), from 0 up."""

    name = "NIST"


class Meteor(E2EMetric):
    """METEOR 1.5 (`modules.scores.java.meteor`), in [0, 1]; `java.Unavailable` where its parts are missing."""

    name = "METEOR"

    def __init__(self, **kwargs):
        if lack := java.missing():
            raise java.Unavailable(lack)
        super().__init__(**kwargs)


class RougeL(E2EMetric):
    """The COCO tools' ROUGE-L (`modules.scores.coco.rouge_l`), in [0, 1]."""

    name = "ROUGE_L"


class Cider(E2EMetric):
    """The COCO tools' CIDEr-D (`modules.scores.coco.cider`), in [0, 10]."""

    name = "CIDEr"


def e2e_metrics() -> MetricCollection:
    """The scores that can be had here, under their official names: without METEOR where `java.missing()` says why."""
    kinds = [kind for kind in (Bleu, Nist, Meteor, RougeL, Cider) if kind is not Meteor or java.missing() is None]
    return MetricCollection({kind.name: kind() for kind in kinds})
