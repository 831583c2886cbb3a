"""Does a variant keep the contract? ``python -m variants.check lora`` or ``my_file.py:MyVariant [--r 4 ...]``.

Prints a table of the properties that hold. Exit code: 0 if all do, 1 if one fails, 2 if there was no variant to check.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from variants.errors import UserError, exit_code, first_line
from variants.outside.options import add_options, build, given
from variants.registry import resolve
from variants.variant import BaseVariant

if TYPE_CHECKING:
    from variants.contract.models import Subject

HELD, FAILED, NOT_APPLICABLE = "held", "FAILED", "not applicable"


@dataclass(frozen=True)
class Finding:
    """Whether one property holds, and the reason if it does not or says nothing about the variant."""

    property: str
    status: str
    reason: str = ""


def properties() -> list[str]:
    """Names of all properties, in the order in which they are checked."""
    from variants.contract import ddp as contract_ddp
    from variants.contract import properties as contract

    return [*contract.PROPERTIES, contract_ddp.NAME]


def check(variant: BaseVariant | type[BaseVariant], only: list[str] | None = None) -> list[Finding]:
    """Try a variant on tiny models, each property by itself.

    Args:
        variant: a variant, or a class, which is taken with its default options.
        only: names of properties, of :func:`properties`; all by default.
    """
    from variants.contract.models import Subject

    subject = Subject.of(variant)
    return [_find(name, subject) for name in only or properties()]


def _find(name: str, subject: Subject) -> Finding:
    import torch

    from variants.contract import ddp as contract_ddp
    from variants.contract import properties as contract
    from variants.contract.base import Broken
    from variants.contract.models import NotApplicable, one_thread

    with one_thread(), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if name == contract_ddp.NAME:
                (outcome,) = contract_ddp.distributed([subject])
                return Finding(name, FAILED if outcome else HELD, outcome)
            contract.PROPERTIES[name](subject)
        except NotApplicable as reason:
            return Finding(name, NOT_APPLICABLE, str(reason))
        except Broken as reason:
            return Finding(name, FAILED, str(reason))
        except Exception as error:
            return Finding(name, FAILED, first_line(error))
    return Finding(name, HELD)


def table(findings: list[Finding]) -> str:
    """The findings as text, a line each."""
    wide = max(len(f.property) for f in findings), max(len(f.status) for f in findings)
    return "\n".join(f"{f.property:<{wide[0]}}  {f.status:<{wide[1]}}  {f.reason}".rstrip() for f in findings)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad usage is one line.

        Raises:
            UserError: always.
        """
        raise UserError(message)


def parse(argv: list[str]) -> tuple[BaseVariant, list[str]]:
    """The variant that a command line names, with its options; and the properties to try, all where none is named.

    Raises:
        UserError: there is no such variant, option or property, or the variant refuses an option's value.
    """
    parser = _Parser(prog="python -m variants.check", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("variant", help="a known name, package.module:Class or path/to/file.py:Class")
    parser.add_argument("--only", metavar="PROPERTY", action="append", help="try this one alone; may be given again")
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv)
    cls = resolve(argv[0])
    add_options(parser, cls)
    flags = vars(parser.parse_args(argv))
    only = [name for words in flags["only"] or [] for name in words.split(",")]
    if unknown := [name for name in only if name not in properties()]:
        raise UserError(f"there is no property {unknown[0]!r}; they are {', '.join(properties())}")
    return build(cls, given(flags, cls), flags=True), only


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code: 0, 1 where a property fails, 2 after a mistake of the user's."""
    return exit_code(lambda: _main(argv))


def _main(argv: list[str] | None) -> int:
    variant, only = parse(sys.argv[1:] if argv is None else argv)
    findings = check(variant, only)
    print(table(findings))
    failed = sum(f.status == FAILED for f in findings)
    held = sum(f.status == HELD for f in findings)
    print(f"\n{variant}\n{held} held, {failed} failed, {len(findings) - held - failed} not applicable")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
