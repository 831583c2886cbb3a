"""The methods' pages and their table say what is so."""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
import sys
from types import ModuleType

import pytest

from tests.support.source_tree import ROOT
from variants.outside.options import options_of
from variants.registry import BUILT_IN, resolve

PAGES = ROOT / "docs" / "methods"
HEADINGS = ("Equation", "Sites", "Options", "Trained parameters", "What it can do", "Our figures", "Command")


RESULTS = ROOT / "results" / "reference" / "methods-minilm"


@pytest.fixture(scope="module")
def methods_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_table", ROOT / "docs" / "methods_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what annotations name
    spec.loader.exec_module(module)
    return module


def test_table_and_figures_are_current(methods_table) -> None:
    stale = [path.name for path, text in methods_table.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python docs/methods_table.py"


def test_a_figure_that_was_changed_by_hand_is_written_anew(methods_table) -> None:
    page = (PAGES / "lora.md").read_text(encoding="utf-8")
    changed = page.replace("| 59.1 ±9.3 |", "| 69.1 ±0.3 |")
    assert changed != page and methods_table.replaced_figures("lora", changed) == page


def test_the_figures_are_those_of_the_result_files() -> None:
    """Median, spread, mean and rate of all rows of MiniLM, from the JSON alone."""
    runs: dict[tuple, dict[str, list]] = {}
    for path in sorted((RESULTS / "runs").glob("*.json")):
        run = json.loads(path.read_text())
        key = run["variant"], run["parameters"]["adapter"], run["training"]["lr"]
        runs.setdefault(key, {}).setdefault(run["task"], []).append((run["seed"], 100 * run["test"][run["metric"]]))
    found = {}
    for name in BUILT_IN:
        page = (PAGES / f"{name}.md").read_text(encoding="utf-8").partition("\n## Our figures\n")[2]
        rows = [line.strip("| ").split(" | ") for line in page.partition("\n**E2E")[0].splitlines() if line[:1] == "|"]
        assert rows[0][3:9] == ["SST-2", "MRPC", "CoLA", "RTE", "STS-B", "Mean"]
        for row in rows[2:]:
            found[name, int(row[1].replace(",", "")), float(row[2].split()[0])] = row[3:9]
    assert found.keys() == runs.keys() and len(found) == 72
    for key, cells in found.items():
        seeds = [[score for _, score in sorted(runs[key][task])] for task in ("sst2", "mrpc", "cola", "rte", "stsb")]
        means = [statistics.fmean(each) for each in zip(*seeds, strict=True)]
        expected = [f"{statistics.median(each):.1f} ±{statistics.stdev(each):.1f}" for each in seeds]
        assert cells == [*expected, f"{statistics.fmean(means):.1f} ±{statistics.stdev(means):.1f}"], key


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_page_has_its_parts_and_all_options(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert [heading for heading in HEADINGS if f"\n## {heading}\n" not in text] == []
    part = text.partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S.*?) \|", part, re.MULTILINE))
    expected = {option.name: option.default for option in options_of(resolve(name)).values()}
    assert set(rows) == set(expected)
    for option, default in expected.items():
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert rows[option] in (f"`{shown}`", "empty" if default == "" else None, "all" if default == "" else None), (
            option
        )
