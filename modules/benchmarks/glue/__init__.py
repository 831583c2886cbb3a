"""GLUE as a benchmark: eight classification tasks, RoBERTa, one metric per task on the dev set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modules.benchmarks.base import Benchmark, Prepared
from modules.benchmarks.glue.settings import GlueSettings
from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.text import TextBenchmark

if TYPE_CHECKING:
    from modules.benchmarks.glue.sources import GlueSource
    from modules.runs.config import RunConfig


class Glue(TextBenchmark):
    """See `modules/benchmarks/base.py`."""

    name = "glue"
    title = "GLUE"
    script = "glue.py"
    description = "Fine-tune a backbone on GLUE with a LoRA variant, score it, and show the paper's table beside it."
    examples = """examples:
  python paper_repro/glue.py --variant lora --r 8                   what fits this machine
  python paper_repro/glue.py --variant full --tasks rte,mrpc        another method, two tasks
  python paper_repro/glue.py --preset paper --tasks cola            RoBERTa-base on GLUE, as the paper
  python paper_repro/glue.py --model FOLDER --data_dir GLUE_TSVS --tasks rte --seeds 0,1,2
  python paper_repro/glue.py --variant adapter_p --budget 0.3M      the size nearest to 300,000 trained parameters
  python paper_repro/glue.py --variant my_file:MyVariant            a method of your own
  python paper_repro/glue.py --variant dora --help                  the options of another variant
"""
    tasks = TASKS
    settings = GlueSettings
    average = True

    model_title = "RoBERTa-base"
    family = "RoBERTa"
    embedded_note = "a small RoBERTa and generated tasks that ship with the project, neither RoBERTa-base nor GLUE"
    paper_note = "the paper's recipe (LoRA, Table 9)"
    presets = ("auto", "embedded", "paper", "official", "paper-dagger", "paper-dagger-wide", "default")
    data_env = "GLUE_DIR"
    data_help = "folder of the official GLUE TSV files"
    first_task = "mnli"
    later_tasks = ("mrpc", "rte", "stsb")

    reading = """\
A cell is the median over the seeds ± their standard deviation (n-1), times 100, on the dev set. Each
run counts with its best epoch, chosen on the rows it is scored on, so the figures flatter a little, or, with `select
split`, on the other half of the dev set; `glue.csv` has the last epoch too. Avg is there only when all eight tasks are.
Adapter and head parameters both train; the papers count the adapter alone. Step time is the median over the row's runs,
memory the largest; compare them on one device only.
Rows marked *published* are the papers' own figures on the model they name: beside ours, not comparable unless the model
and all of the notes agree."""
    # Rows of the official splits (train, dev; MNLI: matched + mismatched), to tell a subset from the whole.
    official_rows = {
        "mnli": (392_702, 9_815 + 9_832),
        "sst2": (67_349, 872),
        "mrpc": (3_668, 408),
        "cola": (8_551, 1_043),
        "qnli": (104_743, 5_463),
        "qqp": (363_846, 40_430),
        "rte": (2_490, 277),
        "stsb": (5_749, 1_500),
    }
    source, seen_in = Benchmark.source, Benchmark.seen_in  # three sources; the same tasks in all results

    def open_source(self, kind: str, spec: str | None) -> GlueSource:
        """The generator ("embedded"), a folder (`spec`), or the Hub ("hub")."""
        from modules.benchmarks.glue.sources import EmbeddedSource, FolderSource, HubSource

        return {"embedded": EmbeddedSource, "hub": HubSource}[kind]() if kind != "folder" else FolderSource(spec)

    def prepare(self, config: RunConfig) -> Prepared:
        """See `Benchmark.prepare`: under `select: split` half of the dev rows is the test set."""
        prepared = super().prepare(config)
        if self.settings.of(config.training).select == "split":
            from modules.benchmarks.glue.selection import halves

            data = prepared.data
            data.splits = halves(data.splits, data.eval_splits)
            prepared.sizes = {name: len(tokens) for name, tokens in data.splits.items()}
        return prepared

    def scored_rows(self, sizes: Mapping[str, int]) -> int:
        """The dev rows, or the half of them that is scored under `select: split`."""
        return sizes.get("test") or super().scored_rows(sizes)

    def hub_cached(self) -> bool:
        """Whether the papers' backbone and all tasks' data are in the local Hub caches."""
        from modules.benchmarks.glue.sources import GLUE_REPO
        from modules.hub import hub_cached

        return hub_cached(self.hub_model, GLUE_REPO, TASKS)


GLUE = Glue()
