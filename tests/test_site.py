"""The static site: it builds without a warning, its links lead somewhere, and a browser shows and searches it."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.chromium import browser
from tests.support.source_tree import ROOT
from tests.test_docs import PAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; ``--strict`` makes an error of every warning: of a link, an anchor, the navigation."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder


class Read(HTMLParser):
    """The addresses that a page names, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.named: list[str] = []
        self.anchors: set[str | None] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag names."""
        found = dict(attrs)
        self.anchors.add(found.get("id"))
        self.named += [value for key in ("href", "src") if (value := found.get(key))]


def every_page_is_there(site: Path) -> None:
    """Those of the repository that the other tests of Markdown read."""
    for page in PAGES:
        place = site / page.relative_to(ROOT).with_suffix(".html")
        assert (place.with_name("index.html") if place.stem == "README" else place).is_file(), page


def links_lead_somewhere(site: Path) -> None:
    """Also those that the site makes itself: to sources, which are shown, and folders, which are listed."""
    read = {path: Read(path) for path in site.rglob("*.html") if path.name not in ("404.html", "report.html")}
    seen, broken = 0, []
    for path, page in read.items():
        for address in page.named:
            if re.match(r"[a-z]+:", address):
                continue
            target, _, anchor = address.partition("#")
            place = (path.parent / unquote(target)).resolve() if target else path
            there = place.is_file() and (not anchor or place not in read or unquote(anchor) in read[place].anchors)
            seen += 1
            broken += [] if there else [f"{path.relative_to(site)}: {address}"]
    assert seen > 1000 and not broken, broken


def sources_folders_and_equations_are_shown(site: Path) -> None:
    """What GitHub shows and mkdocs does not."""
    dora = (site / "docs" / "methods" / "dora.html").read_text(encoding="utf-8")
    assert dora.count('display="block"') == (ROOT / "docs/methods/dora.md").read_text(encoding="utf-8").count("$$") // 2
    assert (
        "<mfrac>" in dora
        and "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", dora)
        and 'href="../../variants/methods/dora.py.html"' in dora
    )
    assert "DoRALayer" in (site / "variants/methods/dora.py.html").read_text(encoding="utf-8")
    assert "recipes" in (site / "results/reference/pooler-frozen/tuning.html").read_text(encoding="utf-8")
    data = (site / "docs" / "data.html").read_text(encoding="utf-8")
    assert "toxic|rude" in data and "toxic\\|rude" not in data


def test_the_site_is_whole(site: Path) -> None:
    """One test, since every process of the tests that has one of a file builds the site anew."""
    every_page_is_there(site)
    links_lead_somewhere(site)
    sources_folders_and_equations_are_shown(site)


class Silent(http.server.SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site on this machine: browsers search over a server alone."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_in_a_browser(address: str) -> None:
    """Pages load nothing from elsewhere (but for docs/README's diagram), fit a phone, and are found by their words."""
    with browser() as page:
        for name in ("docs/faq.html", "docs/methods/adalora.html", "results/reference/minilm-glue/index.html"):
            page.size(390, 844, phone=True, dark=True)
            page.visit(f"{address}/{name}")
            assert not page.problems
            assert all(request.startswith((address, "data:", "blob:")) for request in page.requests)
            assert page.value("document.documentElement.scrollWidth") <= 390
            assert page.value("getComputedStyle(document.querySelector('[data-md-color-scheme]')).backgroundColor") != (
                "rgb(255, 255, 255)"
            )
        page.size(1200, 900)
        page.visit(f"{address}/docs/faq.html")
        page.value("document.querySelector('label[for=__search]').click()")
        page.value(
            "(box => {box.focus(); box.value = 'bottleneck'; for (const kind of ['keyup', 'input'])"
            " box.dispatchEvent(new Event(kind, {bubbles: true}))})(document.querySelector('.md-search__input'))"
        )
        page.wait("[...document.querySelectorAll('.md-search-result__link')].some(a => a.href.includes('/methods/'))")
