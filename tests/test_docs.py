"""The Markdown files: links lead somewhere, the README is short, its commands name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.source_tree import ROOT

FOLDERS = ("configs", "docs", "modules", "paper_repro", "results", "tests", "variants")
PAGES = [*sorted(ROOT.glob("*.md")), *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md")))]
PAGES = [path for path in PAGES if not {"runs", "tuning"} & set(path.relative_to(ROOT).parts)]
MOST_LINES = 150


def without_code(text: str) -> str:
    """Markdown without its blocks of code and code spans."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not re.match(r" {4}\S", line))
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures that are no addresses of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{link}: no such file"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{link}: no such heading"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", [p for p in PAGES if "results" not in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_name_files_that_exist(page: Path) -> None:
    """Commands and recipes of the project that a page tells a person to use."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"python ((?:paper_repro|modules|variants)/[a-z0-9_]+\.py)", text)
    named += re.findall(r"\b(configs/(?:compare|glue|e2e)/[\w/.-]+\.yaml)\b", text)
    named += [
        f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m ((?:variants|modules)(?:\.\w+)+)", text)
    ]
    assert not [name for name in named if not (ROOT / name).is_file()]
