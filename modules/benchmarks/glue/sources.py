"""Where the rows of a task come from: the Hub, a folder of the official TSV files, or the project's generator.

All three have one interface (`Source`): `load(task)` gives "train" and the task's dev splits, `hash(task)` names
their content, `sizes` and `notes` say what was read and what was missing. Heavy libraries are imported where used.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.benchmarks.glue.tasks import GlueTask
from modules.data.source import Source, Split, read_lines
from modules.hub import from_hub, hub_cached
from variants.errors import UserError, first_line

GLUE_REPO = "nyu-mll/glue"
_RESTORE = "restore the official file (https://gluebenchmark.com/tasks)"


class GlueSource(Source):
    """The common part of the three."""

    restore = _RESTORE


class EmbeddedSource(GlueSource):
    """Rows made by the project's own generator: needs no file and no network, deterministic by seed."""

    kind = "embedded"

    def __init__(self, seed: int = 0):
        super().__init__()
        self.seed, self.name = seed, f"embedded-glue(seed {seed})"

    def hash(self, task: GlueTask) -> str:
        """As everywhere; for the rows that everybody uses it is known, with their number, before they are made. What a
        run makes is compared with it (:meth:`expect`)."""
        from modules.embedded import shipped

        if self.seed == 0 and task.name not in self._hashes:
            about = shipped()[task.name]
            self.notes[task.name], self.sizes[task.name], self._hashes[task.name] = [], about["sizes"], about["hash"]
        return super().hash(task)

    def _read(self, task: GlueTask) -> dict[str, Split]:
        from modules.embedded import generate

        rows = generate(task.name, self.seed)
        return {name: Split([tuple(row) for row in texts], list(labels)) for name, (texts, labels) in rows.items()}


# --- a folder of the official TSV files ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Columns of an official TSV: the texts, the label, and how each class is written (none for a score)."""

    texts: tuple[str, ...]
    label: str = "label"
    classes: tuple[str, ...] = ("0", "1")
    header: tuple[str, ...] = ()  # the columns of a file that has no header line


_ENTAILMENT = ("entailment", "not_entailment")
_LAYOUTS = {
    "cola": _Layout(("sentence",), header=("source", "label", "mark", "sentence")),
    "sst2": _Layout(("sentence",)),
    "mrpc": _Layout(("#1 String", "#2 String"), "Quality"),
    "stsb": _Layout(("sentence1", "sentence2"), "score", classes=()),
    "qqp": _Layout(("question1", "question2"), "is_duplicate"),
    "mnli": _Layout(("sentence1", "sentence2"), "gold_label", ("entailment", "neutral", "contradiction")),
    "qnli": _Layout(("question", "sentence"), classes=_ENTAILMENT),
    "rte": _Layout(("sentence1", "sentence2"), classes=_ENTAILMENT),
}
_FILES = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
}


class FolderSource(GlueSource):
    """The official GLUE download: one folder per task (`CoLA`, `SST-2`, ...) with its train and dev TSV files."""

    kind = "folder"

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        self.folder = Path(folder).expanduser()
        self.spec = str(self.folder)
        self.name = self.folder.resolve().name  # its path is this machine's business
        if not self.folder.is_dir():
            raise UserError(
                f"data folder {str(folder)!r} does not exist; name the folder that holds CoLA/, SST-2/, ..."
            )

    def _read(self, task: GlueTask) -> dict[str, Split]:
        splits = {}
        for name in ("train", *task.eval_splits):
            path = self.folder / task.folder / _FILES[name]
            if name == "validation_mismatched" and not path.exists():
                self.notes[task.name].append(f"{path.name} is absent: only the matched dev split is scored")
                continue
            # A few rows of the official QQP train file break off; every published loader leaves them out.
            splits[name], skipped = read_tsv(path, task, skip_short=(task.name, name) == ("qqp", "train"))
            if skipped:
                self.notes[task.name].append(f"{path.name}: {skipped} rows with missing columns left out")
        return splits


def read_tsv(path: Path, task: GlueTask, skip_short: bool = False) -> tuple[Split, int]:
    """Reads one official TSV (UTF-8, no quoting; BOM and CRLF allowed) -> (rows, number of short rows left out).

    Raises:
        UserError: naming file and line (from 1), for a missing file, column or field, bad UTF-8, or a bad label.
    """
    layout = _LAYOUTS[task.name]
    lines = read_lines(path, _RESTORE)
    header = layout.header or next(lines, (1, ""))[1].split("\t")
    missing = [name for name in (*layout.texts, layout.label) if name not in header]
    if missing:
        raise UserError(
            f"{path}:1: expected a header with the column {missing[0]!r}, found {', '.join(header)!r}; {_RESTORE}"
        )
    text_columns = [header.index(name) for name in layout.texts]
    label_column = header.index(layout.label)
    split, skipped = Split(), 0
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(header):
            if skip_short and len(cells) < len(header):
                skipped += 1
                continue
            raise UserError(
                f"{path}:{number}: expected {len(header)} tab-separated columns, found {len(cells)}; {_RESTORE}"
            )
        try:
            split.labels.append(_label(cells[label_column], layout.classes))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}; {_RESTORE}") from None
        split.texts.append(tuple(cells[column] for column in text_columns))
    return split, skipped


def _label(written: str, classes: tuple[str, ...]) -> int | float:
    if classes:
        if written not in classes:
            raise ValueError(f"expected a label among {', '.join(classes)}, found {written!r}")
        return classes.index(written)
    try:
        score = float(written)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise ValueError(f"expected a score from 0 to 5, found {written!r}")
    return score


# --- the Hub ---------------------------------------------------------------------------------------------------


class HubSource(GlueSource):
    """`datasets.load_dataset(repo, task)`; `name` gains the revision once it is known."""

    kind = "hub"

    def __init__(self, repo: str = GLUE_REPO):
        super().__init__()
        self.repo = self.name = repo

    def _read(self, task: GlueTask) -> dict[str, Split]:
        def prepare() -> tuple[Any, Any]:
            import datasets

            builder = datasets.load_dataset_builder(self.repo, task.name)
            builder.download_and_prepare()
            return builder, builder.as_dataset()

        cached = hub_cached(repo=self.repo, configurations=[task.name])
        try:
            builder, loaded = from_hub(f"data set {self.repo!r}", self.repo, cached, prepare)
        except UserError:
            raise
        except Exception as error:  # any of four libraries' errors: the person needs one line
            raise UserError(f"data set {self.repo!r} ({task.name}) cannot be loaded: {first_line(error)}") from error
        self.name = f"{self.repo}@{builder.hash[:8]}"
        splits = {}
        for name in ("train", *task.eval_splits):
            if name not in loaded:
                raise UserError(f"data set {self.name} ({task.name}) has no split {name!r}; found {', '.join(loaded)}")
            splits[name] = self._split(loaded[name], task)
        return splits

    def _split(self, rows, task: GlueTask) -> Split:
        lacking = [column for column in (*task.fields, "label") if column not in rows.column_names]
        if lacking:
            raise UserError(f"data set {self.name} ({task.name}) has no column {lacking[0]!r}")
        names = tuple(getattr(rows.features["label"], "names", task.labels))
        if names != task.labels:
            raise UserError(f"data set {self.name} ({task.name}): labels are {names}, expected {task.labels}")
        return Split(list(zip(*(rows[column][:] for column in task.fields), strict=True)), list(rows["label"][:]))
