"""A file to start a method from: ``python -m variants.new my_file.py`` (or my_file), whose class is named after it.

Exit code: 0, 2 after a mistake of the user's.
"""

from __future__ import annotations

import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from variants.atomic import write_atomic
from variants.command_line import Parser
from variants.errors import UserError, exit_code
from variants.registry import BUILT_IN

TEMPLATE = '''"""NAME: what it does, and the paper it is from."""

from dataclasses import dataclass

import torch
from torch import nn

from variants import AdapterLayer, Variant, register
from variants.layer import LowRank


class CLASSLayer(AdapterLayer):
    """h = W₀x + (alpha/r)·B·A·x, with B = 0 at the start."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.A = nn.Parameter(torch.randn(config.r, site.in_features, generator=rng) / site.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(site.out_features, config.r))

    def low_rank(self):  # or delta_weight(self) -> ΔW (out, in), or forward(self, x, y) -> the new output
        return LowRank(self.A, self.B, self.config.alpha / self.config.r)


@register("NAME")
@dataclass
class CLASS(Variant):
    """CLASS: one sentence for --help.

    Args:
        r: rank of the update.
        alpha: scaling; the update is multiplied by alpha/r.
    """

    r: int = 8
    alpha: float = 8.0

    layer = CLASSLayer
    size = "r"  # what --budget sets

    # hooks, where you need one: penalty, before_step and after_step (self, layers, step, total_steps), init_from_data,
    # optimizer, ...: see docs/invent.md
'''


def content(stem: str) -> str:
    """The file of a method that is named after its file.

    Raises:
        UserError: the name is no name of a module, or a method of this project.
    """
    if not stem.isidentifier() or keyword.iskeyword(stem):
        raise UserError(f"{stem!r} is no name for a file of Python: take letters, digits and _, such as my_method")
    if stem in sys.stdlib_module_names or find_spec(stem):
        raise UserError(f"{stem!r} is a module that can be imported, which the file would hide: choose another name")
    name = stem.lower()
    if name in BUILT_IN:
        raise UserError(f"{name!r} is a method of this project: choose another name")
    return TEMPLATE.replace("CLASS", class_name(stem)).replace("NAME", name)


def class_name(stem: str) -> str:
    """``my_method`` -> ``MyMethod``."""
    return "".join(part[:1].upper() + part[1:] for part in re.split("_+", stem)) or "Method"


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code."""
    return exit_code(lambda: _main(sys.argv[1:] if argv is None else argv))


def _main(argv: list[str]) -> int:
    parser = Parser(__doc__, prog="python -m variants.new")
    parser.add_argument("file", help="the file to be written")
    path = Path(parser.parse_args(argv).file).expanduser()
    path = path if path.suffix == ".py" else path.with_name(f"{path.name}.py")
    if path.exists():
        raise UserError(f"{path} exists already: choose another name, or delete it")
    text = content(path.stem)
    write_atomic(path, text.encode())
    spec = f"{path}:{class_name(path.stem)}"
    print(f"{path} is LoRA to start from; write your equation into it, then\n")
    print(f"    python -m variants.check {spec}\n    python paper_repro/glue.py --variant {spec} --r 4")
    return 0


if __name__ == "__main__":
    sys.exit(main())
