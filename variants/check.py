"""Does a variant keep the contract? ``python -m variants.check lora`` or ``my_file.py:MyVariant [--r 4 ...]``.

Prints a table of the properties that hold. Exit code: 0 if all do, 1 if one fails, 2 if there was no variant to check.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from variants.command_line import Parser
from variants.errors import UserError, exit_code
from variants.outside.options import add_options, build, given, opened
from variants.outside.places import definition, has_place, located
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
    return list(findings(variant, only))


def findings(variant: BaseVariant | type[BaseVariant], only: list[str] | None = None) -> Iterator[Finding]:
    """As :func:`check`, each finding as soon as it is there. A reason that several have is told by the first."""
    from variants.contract.answers import misfit
    from variants.contract.models import Subject

    subject, told = Subject.of(variant), {}
    try:
        layers = subject.attached().layers
        unfit = misfit(layers)
    except Exception as error:  # every property would say so
        yield Finding((only or properties())[0], FAILED, _with_place(located(error), subject.variant))
        return
    if unfit:  # every pass would say so, each in other words
        yield Finding("low rank", FAILED, _with_place(unfit, subject.variant))
        return
    classes = {type(subject.variant), *map(type, layers)}
    for name in only or properties():
        finding = _find(name, subject)
        if finding.status == FAILED:
            definitions = set(map(definition, classes))
            causes = _causes(finding.reason, definitions)
            if first := next((told[cause] for cause in causes if cause in told), None):
                finding = replace(finding, reason=f"as {first!r}")
            told |= dict.fromkeys(causes - set(told), first or name)
        yield finding


def slower(variant: BaseVariant | type[BaseVariant]) -> list[str]:
    """A line for each way to train faster that a variant which holds the contract does not take, and why."""
    from variants.contract.execution import missing_fast_paths
    from variants.contract.models import Subject

    return missing_fast_paths(Subject.of(variant))


def _causes(reason: str, definitions: set[str]) -> set[str]:
    """What tells whether two reasons have one cause: their text, the line of code, the tensor that they name."""
    place = set(re.findall(r"^(\S+\.py:\d+): ", reason)) - definitions
    return {reason, *place, *re.findall(r"base_model\.[\w.]+", reason)}


def _find(name: str, subject: Subject) -> Finding:
    import torch

    from variants.contract import ddp as contract_ddp
    from variants.contract import properties as contract
    from variants.contract.base import Broken
    from variants.contract.models import NotApplicable, one_thread

    with one_thread(), torch.random.fork_rng(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        try:
            if name == contract_ddp.NAME:
                (outcome,) = contract_ddp.distributed([subject])
                return Finding(name, FAILED if outcome else HELD, outcome and _with_place(outcome, subject.variant))
            return Finding(name, HELD, contract.PROPERTIES[name](subject) or "")
        except NotApplicable as reason:
            return Finding(name, NOT_APPLICABLE, str(reason))
        except Broken as reason:
            return Finding(name, FAILED, _with_place(str(reason), subject.variant))
        except Exception as error:
            return Finding(name, FAILED, _with_place(located(error), subject.variant))


def _with_place(reason: str, variant: BaseVariant) -> str:
    """A reason that begins with the place of an outside method's layer, or of its class where it has none."""
    layer = variant.layer if isinstance(variant.layer, type) else None
    cls = next((c for c in (layer, type(variant)) if c and not c.__module__.startswith("variants.")), None)
    return reason if cls is None or has_place(reason) or not (at := definition(cls)) else f"{at}: {reason}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the compiler's own log lines, which say again what a finding says."""
    names = ("torch._dynamo", "torch._inductor", "torch._subclasses", "torch.__trace", "torch.fx")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _line(finding: Finding) -> str:
    """A finding as a line of the table."""
    wide = max(map(len, properties()))
    return f"{finding.property:<{wide}}  {finding.status:<{len(NOT_APPLICABLE)}}  {finding.reason}".rstrip()


def table(findings: list[Finding]) -> str:
    """The findings as text, a line each."""
    return "\n".join(map(_line, findings))


def parse(argv: list[str]) -> tuple[BaseVariant, list[str]]:
    """The variant that a command line names, with its options; and the properties to try, all where none is named.

    Raises:
        UserError: there is no such variant, option or property, or the variant refuses an option's value.
    """
    parser = Parser(__doc__, prog="python -m variants.check")
    parser.add_argument("variant", help="a known name, package.module:Class or path/to/file.py:Class")
    parser.add_argument("--only", metavar="PROPERTY", action="append", help="try this one alone; may be given again")
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv)
    cls = resolve(argv[0])
    add_options(parser, cls)
    flags = vars(parser.parse_args(opened(argv, cls)))
    only = [name for words in flags["only"] or [] for name in words.split(",")]
    if unknown := [name for name in only if name not in properties()]:
        raise UserError(f"there is no property {unknown[0]!r}; they are {', '.join(properties())}")
    return build(cls, given(flags, cls), flags=True), only


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code: 0, 1 where a property fails, 2 after a mistake of the user's."""
    return exit_code(lambda: _main(argv))


def _main(argv: list[str] | None) -> int:
    variant, only = parse(sys.argv[1:] if argv is None else argv)
    found: list[Finding] = []
    for finding in findings(variant, only):
        print(_line(finding), flush=True)
        found.append(finding)
    failed, held = (sum(f.status == status for f in found) for status in (FAILED, HELD))
    slow = [] if only or failed else slower(variant)
    causes = len({f.reason for f in found if f.status == FAILED and not f.reason.startswith("as '")})
    of = f" for {causes} reason{'s' * (causes > 1)}" if causes < failed else ""
    print(f"\n{variant}\n{held} held, {failed} failed{of}, {len(found) - held - failed} not applicable")
    if not only and not failed:
        print("fast paths: none is missing" if not slow else "fast paths that are missing, each with its reason:")
        print(*(f"  {line}" for line in slow), sep="\n", end="\n" if slow else "")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
