"""The law of the house: who may import whom, and how large a file and a room may grow.

Read from the files' text alone. Where the project does not keep a rule yet, the place stands in a set called KNOWN_...;
such a set may only shrink: a place that keeps the rule now must be taken out of it.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import pytest

from tests.support.source_tree import (
    ROOT,
    circles,
    code_lines,
    files,
    imports,
    project_imports,
    room,
    undocumented,
)

CARRIED_OUT = ("module", "function")
"""Imports that run; those under TYPE_CHECKING are for readers and type checkers alone."""

FLOORS = {
    "variants": (
        "start",
        "errors",
        "schemes",
        "command_line",
        "schema",
        "atomic",
        "wrappers",
        "fingerprint",
        "outside",
        "sites/kinds",
        "sites",
        "layer",
        "prefix_room",  # of the three prefix methods
        "new_tokens",
        "saving",
        "variant",
        "listing",
        "registry",
        "named",
        "__init__",  # the names that `from variants import ...` gives: a method is found when it is asked for
        "methods",
        "training",
        "adapters",
        "parameter_budget",
        "quantisation",
        "formats",
        "formats/peft",
        "formats/diffusers",
        "formats/kohya",
        "pipeline",
        "loops",
        "base_model",
        "acceleration/basics",
        "acceleration/programs",
        "acceleration/products",
        "acceleration/methods",
        "acceleration",
        "contract/watch",
        "contract",
        "check",
        "new",
        "convert",
        "merge",
    ),
    "modules": (
        "__init__",
        "errors",
        "atomic",
        "paths",
        "documents",
        "processes",
        "command_line",
        "hub",
        "runs",
        "embedded",
        "scores",
        "data",
        "backbones/diffusion",
        "backbones",
        "acceleration",
        "benchmarks",
        "benchmarks/text",
        "benchmarks/custom",
        "benchmarks/glue",
        "benchmarks/causal",
        "benchmarks/e2e",
        "benchmarks/instruct/rows",
        "benchmarks/instruct/scores",
        "benchmarks/instruct",
        "benchmarks/dreambooth",
        "pretraining",
        "training/parallel",
        "training/loggers",
        "training",
        "launch",
        "launch/jobs",
        "reports/tables",
        "reports/formats",
        "reports/plots",
        "reports/papers",
        "reports/html",
        "reports",
        "reports/dashboard",
        "analysis",
        "analysis/perplexity",
        "inference",
        "experiments",
        "comparison",
        "api",
        "efficiency/inference",
        "efficiency/steps",
        "efficiency/jobs",
        "efficiency/scaling",
        "efficiency",
        "efficiency/memory",
    ),
}
"""Rooms from the lowest floor to the highest: each may import from those before it."""

LIMITS = {"lora": 30, "dora": 35, "vera": 35, "adalora": 105}
"""Lines of code that a method's file may have; any other's 60."""

MOST_LINES, MOST_FILES = 300, 13

# ---- what does not keep the rules yet ----------------------------------------------------------------------------

KNOWN_UPWARD: set[str] = set()
KNOWN_ROOM_CIRCLES: set[str] = set()
KNOWN_TO_SCRIPTS: set[str] = set()
KNOWN_TO_ACCELERATION = {
    "modules.pretraining.training_step -> modules.acceleration.cuda_graphs",  # where it is there, as the others
    "modules.pretraining.training_step -> variants.acceleration.activations",
    "modules.pretraining.training_step -> variants.acceleration.basics.overrides",
}
KNOWN_LONG: set[str] = set()
KNOWN_FULL: set[str] = set()
KNOWN_WITHOUT_README: set[str] = set()
KNOWN_LONG_METHODS: set[str] = set()
KNOWN_UNDOCUMENTED = 0
"""Public definitions without a docstring: a number that may only be lowered."""


def settle(found: set[str], known: set[str]) -> None:
    """Nothing but what is known, and all that is known."""
    assert not found - known, "against the rule:\n" + "\n".join(sorted(found - known))
    assert not known - found, "no longer so, take it out of the known ones:\n" + "\n".join(sorted(known - found))


def of(package: str) -> list[str]:
    return [name for name in files() if name.split(".")[0] == package]


# ---- who may import whom -----------------------------------------------------------------------------------------


def test_a_method_imports_the_interface_and_torch() -> None:
    """No acceleration, no hooks, no formats: its file is its equation."""
    interface = ("errors", "layer", "variant", "registry", "prefix_room")
    interface = tuple(f"variants.{name}" for name in interface)
    found = set()
    for name in of("variants"):
        if not name.startswith("variants.methods."):
            continue
        for i in imports(name):
            top = i.target.split(".")[0]
            inside = i.target in interface or i.target.startswith(("variants.sites", "variants.methods"))
            if not (inside or top == "torch" or top in sys.stdlib_module_names) and i.level != "typing":
                found.add(f"{name} -> {i.target}")
    settle(found, set())


def test_variants_know_neither_modules_nor_the_large_libraries() -> None:
    found = set()
    for name in of("variants"):
        for i in imports(name):
            top = i.target.split(".")[0]
            if top in ("modules", "paper_repro"):  # not even for type checkers
                found.add(f"{name} -> {i.target}")
            if top in ("lightning", "transformers", "diffusers", "datasets", "peft") and i.level == "module":
                found.add(f"{name} -> {i.target}")
    settle(found, set())


def test_modules_know_no_script() -> None:
    found = set()
    for name in of("modules"):
        for i in imports(name):
            if i.target.split(".")[0] == "paper_repro" and i.level in CARRIED_OUT:
                found.add(f"{name} -> {i.target}")
    settle(found, KNOWN_TO_SCRIPTS)


def test_acceleration_is_reached_through_one_door() -> None:
    """Training enters it, the efficiency benchmark measures it, the contract compares it.

    Everything works without both folders.
    """
    rooms = ("variants/acceleration", "modules/acceleration")
    may = (*rooms, "modules/efficiency", "modules/training/acceleration", "variants/contract")
    found = set()
    for i in project_imports(*CARRIED_OUT):
        source = "modules/training/acceleration" if i.source == "modules.training.acceleration" else room(i.source)
        if room(i.target).startswith(rooms) and not source.startswith(may):
            found.add(f"{i.source} -> {i.target}")
    settle(found, KNOWN_TO_ACCELERATION)


# ---- circles and floors ------------------------------------------------------------------------------------------


def test_no_circle_of_files() -> None:
    edges = defaultdict(set)
    for i in project_imports("module"):
        edges[i.source].add(i.target)
    assert not circles(edges)


def test_no_circle_of_rooms() -> None:
    edges = defaultdict(set)
    for i in project_imports("module"):
        if room(i.source) != room(i.target):
            edges[room(i.source)].add(room(i.target))
    settle({" <-> ".join(circle) for circle in circles(edges)}, KNOWN_ROOM_CIRCLES)


def test_every_room_has_its_floor() -> None:
    for package, floors in FLOORS.items():
        rooms = {room(name).removeprefix(f"{package}/") for name in of(package)}
        assert rooms <= set(floors), f"on no floor of {package}: {sorted(rooms - set(floors))}"


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_goes_up(package) -> None:
    """Neither with the file nor in a function; a room's __init__ is its front door and may call the rooms inside it."""
    floors = {f"{package}/{name}": number for number, name in enumerate(FLOORS[package])}
    found = set()
    for i in project_imports(*CARRIED_OUT):
        source, target = room(i.source), room(i.target)
        inside = files()[i.source].name == "__init__.py" and target.startswith(f"{source}/")
        if source in floors and target in floors and floors[target] > floors[source] and not inside:
            found.add(f"{i.source} -> {target}")
    settle(found, {entry for entry in KNOWN_UPWARD if entry.startswith(package)})


# ---- sizes -------------------------------------------------------------------------------------------------------


def test_no_file_is_long() -> None:
    settle({name for name, path in files().items() if len(path.read_text().splitlines()) > MOST_LINES}, KNOWN_LONG)


def test_no_room_is_full() -> None:
    """But for the methods, of which each has a file."""
    sizes = defaultdict(int)
    for name, path in files().items():
        sizes[room(name)] += path.name != "__init__.py"
    del sizes["variants/methods"]
    settle({name for name, size in sizes.items() if size > MOST_FILES}, KNOWN_FULL)


def test_every_room_has_a_readme_and_is_a_package() -> None:
    rooms = {path.parent for path in files().values()}
    assert not [str(folder) for folder in rooms if not (folder / "__init__.py").is_file()]
    without = {str(folder.relative_to(ROOT)) for folder in rooms if not (folder / "README.md").is_file()}
    settle(without, KNOWN_WITHOUT_README)


def test_methods_are_as_short_as_their_equations() -> None:
    folder = ROOT / "variants" / "methods"
    long = {path.stem for path in folder.glob("*.py") if code_lines(path) > LIMITS.get(path.stem, 60)}
    settle(long, KNOWN_LONG_METHODS)


def test_public_definitions_have_docstrings() -> None:
    without = undocumented()
    assert len(without) <= KNOWN_UNDOCUMENTED, f"{len(without)} of them:\n" + "\n".join(without)


# ---- the measures themselves -------------------------------------------------------------------------------------


def test_circles_are_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circles({"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["d"]}) == [["a", "b", "c"], ["d"]]


def test_lines_of_code_are_counted(tmp_path) -> None:
    (
        tmp_path / "m.py"
    ).write_text('''"""Text\nof two lines."""\nimport a\nfrom b import (\n    c,\n)\n\n# why\nx = """one\ntwo"""\n
def f():\n    """Text."""\n    return (\n        x  # here\n    )\n''')
    assert code_lines(tmp_path / "m.py") == 6
