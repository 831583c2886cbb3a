"""What mkdocs does not do by itself: the site's pages are the repository's Markdown files, where they lie.

Links are written for GitHub, relative to the file. A linked picture, notebook or report comes along as it is; a linked
source file becomes a page that shows it, a linked folder a page that lists it. Equations become MathML, which browsers
draw without a script.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "*.md", "configs/**/*.md", "docs/**/*.md", "examples/**/*.md", "modules/**/*.md", "paper_repro/**/*.md",
    "results/*.md", "results/reference/**/*.md", "tests/**/*.md", "variants/**/*.md",
)  # fmt: skip
AS_IS = (".png", ".svg", ".html", ".ipynb", ".pdf")
"""Linked files that a browser shows, or a program opens; any other one is shown as text."""
NO_PAGES = {"runs", "tuning"}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"^```.*?^```|^ {4}\S.*?$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FENCES = {".py": "python", ".yaml": "yaml", ".cff": "yaml"}


def pages(pattern: str = "") -> list[str]:
    """Paths of the Markdown files that a pattern matches, of all without one; relative to the root."""
    found = {path.relative_to(ROOT) for one in ([pattern] if pattern else PAGES) for path in ROOT.glob(one)}
    return sorted(path.as_posix() for path in found if not NO_PAGES & set(path.parts))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Patterns of the navigation become pages."""
    named = set(re.findall(r"[\w/.-]+\.md", str(config.nav)))
    config.nav = _expanded(config.nav, named)
    return config


def _expanded(entry: Any, named: set[str]) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(inner, named) for title, inner in entry.items()}
    if not isinstance(entry, list):
        return entry
    out = []
    for one in entry:
        many = isinstance(one, str) and "*" in one
        out += [page for page in pages(one) if page not in named] if many else [_expanded(one, named)]
    return out


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's pages and what they link to, beside the theme's files."""
    theirs = [file for file in files if file.abs_src_path is None or not Path(file.abs_src_path).is_relative_to(ROOT)]
    found = Files(theirs)
    for style in config.extra_css:
        found.append(File.generated(config, style, abs_src_path=str(ROOT / style)))
    for page in pages():
        found.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    for page in pages():
        for match in LINK.finditer(CODE.sub("", (ROOT / page).read_text(encoding="utf-8"))):
            _bring(_target(page, match[2]), found, config)
    return found


def _target(page: str, link: str) -> Path | None:
    """The file or folder that a page's link leads to; None for an address of the web, and what is not there."""
    if re.match(r"[a-z]+:", link):
        return None
    path = (ROOT / page).parent.joinpath(link).resolve()
    return path if path.exists() and path.is_relative_to(ROOT) else None


def _bring(target: Path | None, files: Files, config: MkDocsConfig) -> None:
    """Add what a link leads to, unless it is there."""
    if target is None or target.suffix == ".md":
        return
    name = target.relative_to(ROOT).as_posix()
    if target.suffix in AS_IS:
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(target)))
    elif files.get_file_from_path(f"{name}.md") is None:
        files.append(File.generated(config, f"{name}.md", content=_shown(name, target)))


def _shown(name: str, target: Path) -> str:
    """A page that shows a text file, or names the files of a folder."""
    if target.is_dir():
        inside = (path.relative_to(target).as_posix() for path in sorted(target.rglob("*")) if path.is_file())
        body = "\n".join(f"- `{path}`" for path in inside)
    else:
        body = f"````{FENCES.get(target.suffix, 'text')}\n{target.read_text(encoding='utf-8')}\n````"
    return f"---\ntitle: {name}\nsearch: {{exclude: true}}\n---\n\n# `{name}`\n\n{body}\n"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to source files and folders lead to the pages that show them."""

    def changed(match: re.Match[str]) -> str:
        target = _target(page.file.src_uri, match[2])
        shown = target is not None and target.suffix not in (".md", *AS_IS)
        return f"{match[1]}{match[2].rstrip('/')}.md{match[3]}" if shown else match[0]

    return LINK.sub(changed, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Equations as MathML; a bar in a table's code without the backslash that GitHub wants before it."""

    def equation(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return f'<{match[1]} class="equation">{convert(html.unescape(match[2]), display=display)}</{match[1]}>'

    content = EQUATION.sub(equation, content)
    return re.sub(r"<td.*?</td>", lambda cell: cell[0].replace("\\|", "|"), content, flags=re.DOTALL)
