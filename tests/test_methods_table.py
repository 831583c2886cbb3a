"""The methods' pages and their table say what is so."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.support.source_tree import ROOT
from variants.outside.options import options_of
from variants.registry import BUILT_IN, resolve

PAGES = ROOT / "docs" / "methods"
HEADINGS = ("Equation", "Sites", "Options", "Trained parameters", "What it can do", "Command")


def test_the_table_is_current() -> None:
    spec = importlib.util.spec_from_file_location("methods_table", ROOT / "docs" / "methods_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (PAGES / "README.md").read_text(encoding="utf-8")
    assert module.replaced(text) == text, "run python docs/methods_table.py"


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
