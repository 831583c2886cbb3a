"""Options of ordinary types in both commands, and what is said of those that cannot be."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, Union

import pytest

from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.experiments.command import main as glue
from modules.experiments.config_files import expanded
from modules.experiments.flags import make_parser
from modules.experiments.wishes import Wishes
from variants import LoRA, VariantError
from variants.check import main as check
from variants.check import parse
from variants.outside.options import RESERVED, build, options_of
from variants.registry import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

Rate = NewType("Rate", float)


class Kind(enum.Enum):
    FIRST = "a"
    SECOND = 2


@dataclass
class Inner:
    depth: int = 3
    rate: float = 0.5


@dataclass
class Rich(LoRA):
    """Options of many types.

    Args:
        kind: which one, at 5 %.
    """

    kind: Kind = Kind.FIRST
    mode: Literal["x", 2] = "x"
    limit: Optional[int] = None  # noqa: UP045 (as people write it)
    loose: int = None
    either: Union[int, str] = 1  # noqa: UP007
    ranks: list[int] = field(default_factory=lambda: [1, 2])
    betas: tuple[float, float] = (0.9, 0.99)
    every: tuple[int, ...] = ()
    names: Sequence[str] = ()
    late: Iterable[int] = ()
    chosen: set[str] = field(default_factory=set)
    mapping: dict[str, int] = field(default_factory=dict)
    free: Any = None
    bare: list = field(default_factory=list)
    on: bool = True
    off_by_default: bool = False
    perhaps: bool | None = None
    path: Path = Path("a")
    rate: Rate = 1.0
    noted: Annotated[int, "a note"] = 1
    inner: Inner = field(default_factory=lambda: Inner(rate=0.7))
    deep: Inner | None = None
    made: int = field(init=False, default=7)
    seen: InitVar[int] = 1

    def __post_init__(self, seen):
        super().__post_init__()
        self.inner.depth + 1


SPEC = f"{Path(__file__)}:Rich"
GIVEN = [
    ("--kind SECOND", "kind", Kind.SECOND),
    ("--kind a", "kind", Kind.FIRST),
    ("--mode 2", "mode", 2),
    ("--limit 3", "limit", 3),
    ("--limit none", "limit", None),
    ("--loose 4", "loose", 4),
    ("--either 3", "either", 3),
    ("--either none", "either", "none"),
    ("--ranks 1,2,3", "ranks", [1, 2, 3]),
    ("--ranks [1,2,3]", "ranks", [1, 2, 3]),
    ("--ranks 5", "ranks", [5]),
    ("--betas (0.5,1.5)", "betas", (0.5, 1.5)),
    ("--every 1,2", "every", (1, 2)),
    ("--names q,v", "names", ("q", "v")),
    ("--late 1,2", "late", (1, 2)),
    ("--chosen b,a", "chosen", {"a", "b"}),
    ('--mapping={"a":1}', "mapping", {"a": 1}),
    ("--free [1,a]", "free", [1, "a"]),
    ("--free 1", "free", 1),
    ("--bare 1,a", "bare", [1, "a"]),
    ("--on", "on", True),
    ("--no-on", "on", False),
    ("--on false", "on", False),
    ("--off_by_default", "off_by_default", True),
    ("--off_by_default true", "off_by_default", True),
    ("--no_off_by_default", "off_by_default", False),
    ("--perhaps no", "perhaps", False),
    ("--path b/c", "path", Path("b/c")),
    ("--rate 1e-3", "rate", 1e-3),
    ("--noted 4", "noted", 4),
    ("--inner.depth 4", "inner", Inner(4, 0.7)),
    ('--inner {"depth":4}', "inner", Inner(4, 0.7)),
    ("--deep.rate 1", "deep", Inner(3, 1.0)),
]


def in_words(value: Any) -> str:
    """A value as Python writes it; a set in order, as its own depends on the process."""
    return f"{type(value).__name__} of {sorted(value)}" if isinstance(value, (set, frozenset)) else repr(value)


@pytest.mark.parametrize(("line", "name", "value"), GIVEN, ids=[line for line, _, _ in GIVEN])
def test_a_flag_means_the_same_in_both_commands(line: str, name: str, value: Any) -> None:
    """Two parsers disagreed: `1,2,3` and Literals were for one alone, and most of these types for none."""
    variant, _ = parse([SPEC, *line.split(" ")])
    cls = type(variant)
    flags = make_parser(cls, GLUE).parse_args(line.split(" "))
    other = build(cls, Wishes.of(flags, GLUE, cls).options)
    for built in (variant, other):
        # the classes of a file loaded by its path are its own
        assert in_words(getattr(built, name)) == in_words(value)
        plain = json.loads(json.dumps(built.options()))
        assert build(cls, plain) == built and "made" not in plain and "seen" not in plain


def test_options_in_a_config_file_are_read_as_flags_are(tmp_path: Path) -> None:
    cls = resolve(SPEC)
    (tmp_path / "c.yaml").write_text("r: 4\nkind: SECOND\nranks: [4]\ninner:\n  depth: 9\nlimit: null\nalpha: 5e-1\n")
    flags = make_parser(cls, GLUE).parse_args(expanded(["--config", str(tmp_path / "c.yaml"), "--r", "5"]))
    built = build(cls, Wishes.of(flags, GLUE, cls).options)
    assert (built.r, built.kind.name, built.ranks, built.inner.depth, built.alpha) == (5, "SECOND", [4], 9, 0.5)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--r eight", "--r must be int, not 'eight'"),
        ("--r 1.5", "--r must be int"),
        ("--alpha inf", "--alpha must be a finite float"),
        ("--kind third", "--kind must be one of a, 2, FIRST, SECOND, not 'third'"),
        ("--mode z", "--mode must be one of x, 2"),
        ("--limit x", "--limit must be int or null"),
        ("--ranks 1,b", "--ranks must be a list such as [1, 2] whose values are int"),
        ("--betas 1", "--betas must be 2 values such as float,float"),
        ("--mapping 3", "--mapping must be a mapping such as {a: 1}"),
        ("--on perhaps", "--on must be true or false"),
        ("--inner.depth x", "--inner.depth must be int"),
        ("--r 0", "r must be at least 1, not 0"),
    ],
)
def test_a_wrong_value_is_the_same_line_in_both_commands(line: str, says: str, capsys) -> None:
    words = line.split(" ")
    for command in (lambda: check([SPEC, *words]), lambda: glue(["--variant", SPEC, "--plan", *words], GLUE)):
        done, error = command(), capsys.readouterr().err
        assert done == 2 and says in error and error.count("\n") == 1, error


HEAD = """from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from variants import AdapterLayer, LoRA, Variant
if TYPE_CHECKING:
    from nowhere import Unknown
"""
MISTAKES = {
    "a flag's name": ("@dataclass\nclass V(LoRA):\n    epochs: int = 3", r"own.py:6: V cannot have an option 'epochs'"),
    "help": ("@dataclass\nclass V(LoRA):\n    help: str = ''", "as --help is a flag of the project's: rename it"),
    "seeds": ("@dataclass\nclass V(LoRA):\n    seeds: int = 1", "cannot have an option 'seeds'"),
    "name": ("@dataclass\nclass V(LoRA):\n    name: str = 'x'", r"own.py:7: .*'name' cannot be an option"),
    "required": ("@dataclass(kw_only=True)\nclass V(LoRA):\n    gain: float", r"V needs --gain: .* \(own.py:6\)"),
    "ValueError": (
        "@dataclass\nclass V(LoRA):\n    def __post_init__(self):\n        raise ValueError('gain is too large')",
        r"V refuses its options: own.py:9: ValueError: gain is too large",
    ),
    "assert": (
        "@dataclass\nclass V(LoRA):\n    def __post_init__(self):\n        assert self.r < 3, 'r is too large'",
        r"own.py:9: AssertionError: r is too large",
    ),
    "any error": (
        "@dataclass\nclass V(LoRA):\n    def __post_init__(self):\n        self.gone",
        "own.py:9: AttributeError: 'V' object has no attribute 'gone'",
    ),
    "a default's factory": (
        "@dataclass\nclass V(LoRA):\n    x: list = field(default_factory=lambda: 1 / 0)",
        "own.py:8: ZeroDivisionError",
    ),
    "mutable default": ("@dataclass\nclass V(LoRA):\n    x: list = [1]", r"own.py:6: ValueError: mutable default"),
    "syntax": ("@dataclass\nclass V(LoRA)\n    x: int = 1", r"own.py:7: SyntaxError: expected ':'"),
    "import": ("x = {}['y']", r"own.py:6: KeyError: 'y'"),
    "unknown type": ("@dataclass\nclass V(LoRA):\n    x: 'Unknown' = 1", r"own.py:6: V.x: its type 'Unknown'"),
    "no way": ("class L(AdapterLayer):\n    pass\n@dataclass\nclass V(Variant):\n    layer = L", "6: L has none"),
    "no rng": (
        "class L(AdapterLayer):\n    def __init__(self, site, config):\n        pass\n"
        "@dataclass\nclass V(Variant):\n    layer = L",
        r"TypeError: L.__init__\(\) takes 3 positional arguments but 4 were given",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", [pytest.param(m, marks=pytest.mark.slow) if "no " in m else m for m in MISTAKES])
def test_a_mistake_in_a_file_is_one_line_with_its_place_in_both_commands(mistake, tmp_path, capsys) -> None:
    source, says = MISTAKES[mistake]
    (tmp_path / "own.py").write_text(HEAD + source)
    spec, small = f"{tmp_path}/own.py:V", ["--preset", "embedded", "--tasks", "rte", "--seeds", "0"]
    checked = check([spec, "--only", "gradients"])
    out, error = capsys.readouterr()
    if mistake not in ("no way", "no rng"):  # of a layer: what the check is for
        assert checked == 2 and error.count("\n") == 1, error
    assert checked and re.search(says, error + out) and "Traceback" not in error, error + out
    assert glue(["--variant", spec, "--plan", *small], GLUE) == 2
    error = capsys.readouterr().err
    assert re.search(says, error) and error.count("\n") == 1 and len(error) < 330, error


def test_flags_that_no_option_can_share_are_all_known() -> None:
    bare = resolve("head")
    for benchmark in (GLUE, E2E):
        flags = {action.dest for action in make_parser(bare, benchmark)._actions} | set(benchmark.settings.flags())
        assert flags <= RESERVED, flags - RESERVED


def test_help_shows_defaults_choices_and_switches(capsys) -> None:
    make_parser(resolve(SPEC), GLUE).print_help()
    out = " ".join(capsys.readouterr().out.split())
    for text in ("which one, at 5 % (default: FIRST)", "{FIRST,SECOND}", "--no-off-by-default", "--inner.depth"):
        assert text in out


def test_what_no_file_can_hold_is_named() -> None:
    @dataclass
    class Own(LoRA):
        act: Any = print

    with pytest.raises(VariantError, match="Own.act is a builtin_function_or_method, which no file can hold"):
        Own().options()
    with pytest.raises(VariantError, match="has no option 'gain'; it has target"):
        build(Own, {"gain": 1})
    assert options_of(Own)["r"].kind is int


def test_text_that_is_plain_data_stays_text_and_options_of_some_sites_are_read_too() -> None:
    plain = {"free": "no", "bare": ["1"], "per_layer": {"*.0.*": {"kind": "SECOND", "r": "4", "init": "gaussian"}}}
    built = build(Rich, plain)
    assert built.free == "no" and built.bare == ["1"]
    assert built.at("x.0.y").kind is Kind.SECOND and built.at("x.0.y").r == 4 and built.at("x.1.y").r == 8
    assert build(Rich, json.loads(json.dumps(built.options()))) == built
