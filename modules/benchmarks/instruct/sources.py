"""Where instruction data come from: the generator, a folder of known sets, the Hub, a person's own files."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modules.benchmarks.instruct.description import Description
from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.rows.reading import KINDS, SPLITS, examples_of, files_of, read_file
from modules.benchmarks.instruct.tasks import InstructTask, Part
from modules.data.source import Source, Split
from variants.errors import UserError, first_line

DEV_SHARE, DEV_MOST = 0.05, 512
"""Of the known sets: rows of train that are kept back to pick the best epoch, as a share, and at most."""


def split_of(examples: Sequence[Example]) -> Split:
    """Examples as rows of the project's sources."""
    return Split([(example.written(),) for example in examples], [0] * len(examples))


def examples_in(split: Split) -> list[Example]:
    """The examples of such rows."""
    return [Example.read(line) for (line,) in split.texts]


def cut(examples: Sequence[Example], rows: int, seed: int) -> tuple[list[Example], list[Example]]:
    """(all others, so many of them), chosen by the seed alone; both in the order that they had."""
    chosen = set(np.random.Generator(np.random.PCG64(seed)).permutation(len(examples))[:rows].tolist())
    rest = [example for number, example in enumerate(examples) if number not in chosen]
    return rest, [examples[number] for number in sorted(chosen)]


def without_questions_of(test: Sequence[Example], train: Sequence[Example]) -> tuple[list[Example], dict[str, int]]:
    """(the training rows whose question no test row asks, how many others there were by part).

    Questions are compared by their letters and digits. Published training sets do hold test rows: four fifths of each
    arithmetic test set are rows of LLM-Adapters' math_data.json.
    """
    asked = {_question(example) for example in test}
    kept = [example for example in train if _question(example) not in asked]
    leaked = Counter(example.part for example in train if _question(example) in asked)
    return kept, dict(leaked)


def _question(example: Example) -> str:
    return " ".join(re.findall(r"\w+", example.prompt.lower()))


class InstructSource(Source):
    """Sources of parts: what is trained on of all parts together, and what is scored."""

    def _read(self, task: InstructTask) -> dict[str, Split]:
        notes = self.notes[task.name]
        union = [task.union] if task.union else []
        train, lacking = self._rows(union, "train")
        if not train:
            train, lacking = self._rows([part for part in task.parts if part.trains], "train")
        if lacking:
            notes.append(f"trained on a SUBSET: no training rows of {', '.join(lacking)} in {self.name}")
        test, lacking = self._rows([part for part in task.parts if part.scored], "test")
        if lacking:
            notes.append(f"not scored, as {self.name} lacks their test rows: {', '.join(lacking)}")
        train, leaked = without_questions_of(test, train)
        if leaked:
            titles = {part.name: part.title for part in (*union, *task.parts)}
            named = ", ".join(f"{count:,} of {titles[part]}" for part, count in leaked.items())
            notes.append(f"not trained on, as they are test rows too: {named}")
        rest, dev = (
            cut(train, min(DEV_MOST, max(1, round(DEV_SHARE * len(train)))), 0) if len(train) > 1 else (train, [])
        )
        return {"train": split_of(rest), "validation": split_of(dev), "test": split_of(test)}

    def _rows(self, parts: Sequence[Part], split: str) -> tuple[list[Example], list[str]]:
        """(the rows of the parts, the titles of those that have none)."""
        found = {part.title: self.part(part, split) or [] for part in parts}
        return list(itertools.chain(*found.values())), [title for title, rows in found.items() if not rows]

    def part(self, part: Part, split: str) -> list[Example] | None:
        """The rows of a part's split; None where there is none."""
        raise NotImplementedError


class EmbeddedSource(InstructSource):
    """The generated tasks that ship with the project."""

    kind, name = "embedded", "generated instructions"
    restore = "install the project again"

    def part(self, part: Part, split: str) -> list[Example] | None:
        """See `InstructSource.part`."""
        from modules.embedded.instructions import generate

        try:
            rows = generate(part.name)[split]
        except KeyError:
            raise UserError(f"{part.title} is none of the generated tasks: name a backbone with --model") from None
        return examples_of(((f"generated {part.name} {n}", row) for n, row in enumerate(rows, 1)), part.name)[0]


class FolderSource(InstructSource):
    """A folder with one folder for each set: train and test as JSON, JSON lines or Parquet; a set of training rows
    alone may be a file, such as commonsense_170k.json."""

    kind = "folder"
    restore = "name another folder with --data_dir"

    def __init__(self, spec: str) -> None:
        super().__init__()
        self.spec, self.root = spec, Path(spec).expanduser()
        self.name = self.root.resolve().name
        if not self.root.is_dir():
            raise UserError(f"--data_dir {spec}: there is no such folder")

    def part(self, part: Part, split: str) -> list[Example] | None:
        """See `InstructSource.part`."""
        files = [self.root / part.folder / f"{name}{kind}" for name in SPLITS[split] for kind in KINDS]
        files += [self.root / f"{part.folder}{kind}" for kind in KINDS if split == "train"]
        file = next((file for file in files if file.is_file()), None)
        return None if file is None else [with_options(example) for example in read_file(file, part.name)[0]]


def with_options(example: Example) -> Example:
    """An example of LLM-Adapters' commonsense sets with the options that its instruction ends with."""
    form = re.search(r"Answer format:\s*(\S+)\s*$", example.prompt)
    options = tuple(form[1].split("/")) if form else ()
    return replace(example, options=options) if example.answer in options and not example.options else example


class HubSource(InstructSource):
    """The sets from the Hub, each a data set of its own."""

    kind, name = "hub", "the Hub"
    restore = "try again, or name a folder with --data_dir"

    def part(self, part: Part, split: str) -> list[Example] | None:
        """See `InstructSource.part`."""
        from modules.benchmarks.instruct.hub import rows_of

        rows = rows_of(part, split)
        return None if rows is None else [with_options(example) for example in examples_of(rows, part.name)[0]]


class OwnSource(Source):
    """A person's own file, folder or data set of the Hub, as flags describe it."""

    restore = "mend the file"

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__()
        self.wanted, self.spec = Description.of(given), dict(given)
        self.kind = "hub" if self.wanted.is_hub else "folder" if self.wanted.path.is_dir() else "file"
        self.name = self.wanted.name

    def _read(self, task: InstructTask) -> dict[str, Split]:
        wanted, notes = self.wanted, self.notes[task.name]
        parts, form = self._parts()
        notes.append(f"form of the rows: {form}")
        if "validation" not in parts:
            rows = max(1, round(wanted.dev_share * len(parts["train"])))
            if len(parts["train"]) < 2:
                raise UserError(f"{wanted.where}: one row is too few to cut a dev split from: name one by --dev")
            parts["train"], parts["validation"] = cut(parts["train"], rows, wanted.split_seed)
            notes.append(
                f"dev: {rows:,} rows, {wanted.dev_share:.0%}, cut from train by split seed {wanted.split_seed}"
            )
        known = set(map(Example.written, parts["train"]))
        for name in ("validation", "test"):
            if same := sum(example.written() in known for example in parts.get(name, ())):
                notes.append(f"{same:,} of {len(parts[name]):,} rows of {name} are rows of train too")
        return {name: split_of(examples) for name, examples in parts.items()}

    def _parts(self) -> tuple[dict[str, list[Example]], str]:
        wanted, forms = self.wanted, []
        files: dict[str, list[Path]] = {}
        parts: dict[str, list[Example]] = {}
        if wanted.is_hub:
            for split, rows in self._hub().items():
                parts[split], form = examples_of(rows)
                forms.append(form)
        elif wanted.path.is_dir():
            files = files_of(wanted.path)
        elif wanted.path.exists():
            files = {"train": [wanted.path]}
        else:
            raise UserError(f"--data {wanted.where}: there is no such file or folder, and it is no Hub id")
        for split, path in (("validation", wanted.dev), ("test", wanted.test)):
            files |= {split: [Path(path).expanduser()]} if path else {}
        for split, paths in files.items():
            read = [read_file(path) for path in paths]
            parts[split] = [example for examples, _ in read for example in examples]
            forms += [form for _, form in read]
        return parts, ", ".join(dict.fromkeys(forms))

    def _hub(self) -> dict[str, Any]:
        from modules.benchmarks.instruct.hub import load

        try:
            loaded = load(self.wanted.where)
        except UserError:
            raise
        except Exception as error:  # any of four libraries' errors: the person needs one line
            raise UserError(f"--data {self.wanted.where}: cannot be loaded: {first_line(error)}") from error
        found = {}
        for split, names in SPLITS.items():
            for own in [name for name in names if name in loaded][:1]:
                where = f"{self.wanted.where} ({own})"
                found[split] = ((f"{where}: row {n}", row) for n, row in enumerate(loaded[own], 1))
        if "train" not in found:
            raise UserError(f"--data {self.wanted.where}: has no split 'train'; it has {', '.join(loaded)}")
        return found
