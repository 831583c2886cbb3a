"""Every command of the project under one name.

lora-variants                        this list
lora-variants glue --variant lora    the same as python paper_repro/glue.py --variant lora
lora-variants glue --help            what a command takes
python -m paper_repro glue --help    the same, where no program was installed
"""

from __future__ import annotations

import paper_repro  # isort: skip  (first: it finds the project's own packages)

import ast
import difflib
import importlib
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import guarded
from variants.command_line import version
from variants.errors import UserError

OF_ADAPTERS = ("check", "convert", "merge")
"""Commands of the package `variants`."""


def commands() -> dict[str, tuple[str, str]]:
    """(module, first line of its text) of each command by name: the listing of this folder, and `OF_ADAPTERS`."""
    folder = Path(paper_repro.__file__).parent
    files = {path.stem: ("paper_repro", path) for path in sorted(folder.glob("[!_]*.py"))}
    files |= {name: ("variants", folder.parent / "variants" / f"{name}.py") for name in OF_ADAPTERS}
    return {name: (f"{package}.{name}", _first_line(path)) for name, (package, path) in files.items()}


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    text = re.sub(r"^python -m [\w.]+: ", "", text.partition("\n")[0].replace("``", ""))
    return text[:1].upper() + text[1:]


def listing() -> str:
    """The commands, a line or two each."""
    width = max(40, min(120, shutil.get_terminal_size().columns))
    found, lines = commands(), [__doc__.strip(), "", "commands:"]
    wide = max(map(len, found))
    for name, (_, text) in found.items():
        hanging = " " * (wide + 4)
        lines.append(textwrap.fill(text, width, initial_indent=f"  {name:<{wide}}  ", subsequent_indent=hanging))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    return guarded(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(listing())
        return 0
    if words[0] == "--version":
        print(version())
        return 0
    name, found = words[0].replace("-", "_"), commands()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"the commands are {', '.join(found)}"
        raise UserError(f"there is no command {words[0]!r}; {hint}")
    sys.argv = [f"lora-variants {name}", *words[1:]]
    return importlib.import_module(found[name][0]).main(words[1:])


if __name__ == "__main__":
    sys.exit(main())
