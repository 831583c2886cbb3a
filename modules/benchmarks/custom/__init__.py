"""A person's own data as a benchmark: texts and labels in a file, a folder, or a data set of the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modules.benchmarks.base import Prepared
from modules.benchmarks.custom.description import FLAGS, Description
from modules.benchmarks.custom.settings import DEFAULT, METRICS, CustomSettings
from modules.benchmarks.text import TextBenchmark, TextTask
from modules.data.task import Task
from variants.errors import UserError

if TYPE_CHECKING:
    from modules.benchmarks.custom.source import TableSource
    from modules.runs.config import RunConfig


class Custom(TextBenchmark):
    """Fine-tune a backbone on your own texts and labels with a LoRA variant, and score it."""

    name = "custom"
    title = "Own data"
    description = (
        "Fine-tune a backbone with a LoRA variant on your own data (--data), or on a benchmark of yours (--benchmark)."
    )
    examples = """examples:
  python paper_repro/train.py --data reviews.csv --text review --label stars
  python paper_repro/train.py --data pairs.tsv --text question,answer --label fits --metric f1,accuracy
  python paper_repro/train.py --data FOLDER --text text --label score --label_kind score --seeds 0-2
  python paper_repro/train.py --data reviews.csv --text review --label stars --variant dora --budget 0.3M
  python paper_repro/train.py --benchmark my_file.py:MyBenchmark --variant lora --r 8
  python paper_repro/train.py --benchmark my_file.py:MyBenchmark --help
"""
    tasks: Mapping[str, Task] = {}  # known once there are data: see `on`
    settings = CustomSettings
    data_flags = FLAGS | {
        "benchmark": "in place of --data: glue, e2e, an installed one's name, module:Class, file.py:Class"
    }
    reading = """\
A cell is the median over the seeds ± their standard deviation (n-1; `±-`: one seed), on the dev set; errors (`neg_...`)
have their sign turned, so that higher is better, and keep their unit, all other figures are times 100. Each run counts
with its best epoch, chosen on the rows it is scored on, so the figures flatter a little; those of a test set, which
this epoch alone is scored on, do not. Rows of different data never share a table's row."""

    def on(self, given: Mapping[str, str]) -> Custom:
        """See `Benchmark.on`; nothing is read yet."""
        wanted, own = Description.of(given), Custom()
        own.given = dict(given)
        own.tasks = {wanted.task: Task(name=wanted.task, title=wanted.title, fields=wanted.text)}
        return own

    def source(self, backbone: str, data_dir: str | None) -> TableSource:
        """The described data, for any backbone."""
        return self.open_source("", self.given)

    def open_source(self, kind: str, spec: Mapping[str, str]) -> TableSource:
        """The data that flags (`spec`) describe."""
        from modules.benchmarks.custom.source import TableSource

        return TableSource(spec)

    def labelled(self, task: Task, source: TableSource, training: Mapping[str, Any]) -> TextTask:
        """See `Benchmark.labelled`: with the labels of the rows, and the metrics of --metric."""
        source.hash(task)  # reads them
        labels = source.labels
        words = (training.get("metric") or DEFAULT[labels.kind]).split(",")
        try:
            return TextTask(
                name=task.name,
                title=task.title,
                fields=task.fields,
                labels=labels.names,
                multi=labels.kind == "multi",
                metrics=tuple(dict.fromkeys(METRICS[word] for word in words)),
            )
        except UserError as error:
            raise UserError(f"--metric {','.join(words)}: {error}") from None

    def prepare(self, config: RunConfig) -> Prepared:
        """See `Benchmark.prepare`."""
        return super(Custom, self.on(config.data["spec"])).prepare(config)

    def inputs(self, config: RunConfig) -> dict[str, Any]:
        """See `Benchmark.inputs`."""
        return super(Custom, self.on(config.data["spec"])).inputs(config)


CUSTOM = Custom()
