"""Names of variants: which class each finds, and what is said where none does."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import typing
from dataclasses import MISSING
from pathlib import Path

import pytest

import variants
from variants import BaseVariant, Variant, VariantError, registry
from variants.check import HELD, check
from variants.outside.files import code_hash

ROOT = Path(__file__).resolve().parents[2]
SOURCE = '''
from dataclasses import dataclass
from variants import Variant, register

@dataclass
class Mine(Variant):
    """Mine."""
    strength: float = 2.0

class Plain(Variant):
    strength: float = 3.0

@register("decorated-name")
@dataclass
class Decorated(Variant):
    pass

a_number = 3
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the path with a module, whose name is new in every test."""
    name = f"outside_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    for built_in in registry.BUILT_IN:
        registry.resolve(built_in)  # what is imported for the first time below would be forgotten with the test's names
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield tmp_path / f"{name}.py"
    sys.modules.pop(name, None)


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_built_in_variants_have_their_names(name: str) -> None:
    cls = registry.resolve(name)
    assert issubclass(cls, BaseVariant) and cls.name == name and cls.__module__ == f"variants.methods.{name}"
    assert getattr(variants, cls.__name__) is cls
    assert registry.resolve(registry.spec_of(cls)) is cls
    assert cls(**cls().options()) == cls()


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_outline_is_the_class_without_its_code(name: str) -> None:
    def fields(cls: type) -> list[tuple]:
        types = typing.get_type_hints(cls)
        made = [MISSING if f.default_factory is MISSING else f.default_factory() for f in dataclasses.fields(cls)]
        return [(f.name, types[f.name], f.default, m) for f, m in zip(dataclasses.fields(cls), made, strict=True)]

    real, outline = registry.resolve(name), registry.outline(name)
    assert outline is not real, "it was imported"
    assert fields(outline) == fields(real)
    assert inspect.getdoc(outline) == inspect.getdoc(real) and outline.name == real.name


def test_outlines_spare_the_import_of_torch() -> None:
    script = (
        "import sys; from variants import registry;"
        "[registry.outline(name) for name in registry.BUILT_IN]; registry.names();"
        "assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


@pytest.mark.slow
def test_a_new_method_is_one_new_file(tmp_path: Path) -> None:
    """The folder's listing is the list; a default that is no literal is known too, by importing the class."""
    shutil.copytree(ROOT / "variants", tmp_path / "variants", ignore=shutil.ignore_patterns("__pycache__"))
    source = SOURCE.replace("decorated-name", "newest").replace("Decorated", "New")
    (tmp_path / "variants/methods/newest.py").write_text(source.replace("    pass", "    strength: float = 2.0 * 2"))
    script = (
        "import variants; from variants import *; from variants import registry;"
        "assert 'newest' in names() and 'newest' in registry.BUILT_IN and 'New' in dir(variants);"
        "assert resolve('newest') is New and New().strength == 4 and registry.spec_of(New) == 'newest';"
        "assert registry.outline('newest') is New"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, check=True)


@pytest.mark.slow
def test_public_names_load_nothing_until_they_are_used_and_then_neither_lightning_nor_transformers() -> None:
    """Nor does a check of a variant; of its properties those that take no time, compiling and processes."""
    script = (
        "import sys, variants; names = dir(variants);"
        "assert {'LoRA', 'VeRA', 'PrefixTuning', 'attach', 'load', 'Variant'} <= set(names) & set(variants.__all__);"
        "assert 'torch' not in sys.modules; variants.LoRA; assert 'torch' in sys.modules;"
        "assert not hasattr(variants, 'Nothing');"
        "from variants import *; from variants import LoRA, attach, load, registry;"
        "[registry.resolve(name) for name in registry.BUILT_IN];"
        "from variants.check import check, properties;"
        "assert check(LoRA, [n for n in properties() if n not in ('compile', 'checkpointing', 'learns', 'DDP')]);"
        "heavy = {'transformers', 'lightning', 'pytorch_lightning', 'datasets', 'wandb', 'peft'};"
        "assert not heavy & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


def test_module_and_class(outside: Path) -> None:
    cls = registry.resolve(f"{outside.stem}:Mine")
    assert issubclass(cls, Variant) and cls().strength == 2.0 and cls.name == "mine"
    assert registry.outline(f"{outside.stem}:Mine") is cls


def test_file_and_class(outside: Path, monkeypatch) -> None:
    monkeypatch.chdir(outside.parent)
    cls = registry.resolve(f"{outside.name}:Mine")
    assert cls().strength == 2.0
    assert registry.resolve(f"{outside}:Mine") is cls, "one file is one module, however it is named"
    with pytest.raises(VariantError, match=r"name its class too, such as .*\.py:Decorated"):
        registry.resolve(str(outside))


def test_a_file_hides_no_module_of_its_name(tmp_path: Path) -> None:
    import random

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "random.py").write_text(SOURCE.replace("2.0", {"a": "4.0", "b": "5.0"}[folder]))
    a, b = (registry.resolve(f"{tmp_path}/{folder}/random.py:Mine") for folder in "ab")
    assert (a().strength, b().strength) == (4.0, 5.0), "two files of one name are two modules"
    assert sys.modules["random"] is random and pickle.loads(pickle.dumps(a(strength=3.0))).strength == 3.0
    plain = vars(sys.modules[a.__module__])["Plain"]
    assert registry.resolve(registry.spec_of(plain)) is plain, "found by its file: other processes have no such module"


def test_a_file_imports_those_beside_it(tmp_path: Path) -> None:
    """Two folders may each have a helper, imported in either way, in a function too; the code's hash knows of it."""
    classes = []
    for folder, value in (("a", "4.0"), ("b", "5.0")):
        (tmp_path / folder).mkdir()
        how = {"a": "from .base import STRENGTH", "b": "import base\nSTRENGTH = base.STRENGTH"}[folder]
        (tmp_path / folder / "helper.py").write_text(f"{how}\ndef late():\n  return {value}\n")
        (tmp_path / folder / "base.py").write_text(f"STRENGTH = {value}")
        source = "import helper\nfrom helper import STRENGTH\ndef late():\n  import helper as h\n  return h.late()\n"
        (tmp_path / folder / "own.py").write_text(source + SOURCE.replace("2.0", "STRENGTH"))
        classes.append(registry.resolve(f"{tmp_path}/{folder}/own.py:Mine"))
    assert [cls().strength for cls in classes] == [4.0, 5.0]
    assert [sys.modules[cls.__module__].late() for cls in classes] == [4.0, 5.0]
    assert "helper" not in sys.modules and not list(tmp_path.rglob("__pycache__"))
    before = [code_hash(cls) for cls in classes]
    assert before[0] != before[1]
    (tmp_path / "a" / "base.py").write_text("STRENGTH = 6.0")
    assert code_hash(classes[0]) != before[0] and code_hash(classes[1]) == before[1]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = {}['y']", r"own\.py:1: KeyError: 'y'"),
        ("class V(", r"own\.py:1: SyntaxError"),
        ("import sys\nsys.exit(3)", r"own\.py:2: SystemExit: 3"),
        ("import no_such_module", r"own\.py:1: ModuleNotFoundError"),
        ("from variants import Variant\nclass V(Variant):\n  ranks: list = [1]", r"own\.py:2: V: mutable default"),
    ],
)
def test_a_file_that_fails_is_one_line_with_its_place(source: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(VariantError, match=says) as error:
        registry.resolve(f"{tmp_path}/own.py:V")
    assert "\n" not in str(error.value)


def test_a_file_that_fails_is_loaded_anew_once_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "mended.py").write_text("1 / 0")
    with pytest.raises(VariantError, match=r"mended\.py:1: ZeroDivisionError"):
        registry.resolve(f"{tmp_path}/mended.py:Mine")
    (tmp_path / "mended.py").write_text(SOURCE)
    assert registry.resolve(f"{tmp_path}/mended.py:Mine")().strength == 2.0


def test_the_example_of_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    text = (ROOT / "variants" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "my_file.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    findings = check(
        registry.resolve(f"{tmp_path}/my_file.py:MyVariant"), ["gradients", "merge", "round trip", "learns"]
    )
    assert {finding.status for finding in findings} == {HELD}, findings


def test_a_forgotten_dataclass_decorator_is_made_up_for(outside: Path) -> None:
    assert registry.resolve(f"{outside.stem}:Plain")(strength=5.0).strength == 5.0


def test_working_directory_is_on_the_path(outside: Path) -> None:
    """``python script.py`` puts the script's folder on the path, not the one a person is in."""
    script = f"import sys; sys.path.remove(''); from variants import resolve; resolve('{outside.stem}:Mine')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=outside.parent, env=environment, check=True, timeout=60)


def test_spec_of_finds_the_class_in_another_process(outside: Path) -> None:
    by_file = registry.resolve(f"{outside}:Decorated")
    assert by_file.name == "decorated-name"
    assert registry.resolve("decorated-name") is by_file
    spec = registry.spec_of(by_file)
    assert spec == f"{outside}:Decorated", "the name alone means nothing where the file was not imported"
    script = f"from variants import resolve; print(resolve({spec!r}).name)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "decorated-name"


def test_a_class_called_like_a_built_in_variant_is_not_it(outside: Path) -> None:
    outside.write_text(SOURCE.replace("class Mine", "class LoRA"))
    cls = registry.resolve(f"{outside.stem}:LoRA")
    assert cls.name == "outside-lora" and registry.spec_of(cls) == f"{outside.stem}:LoRA"
    assert registry.resolve("lora") is variants.LoRA


def test_a_name_is_not_inherited() -> None:
    """A subclass of LoRA is no LoRA: neither its recipe, nor its row in a table, nor PEFT's form are its own."""

    class Mine(variants.LoRA):
        pass

    class LoRA(variants.LoRA):
        pass

    assert (Mine.name, LoRA.name, variants.LoRA.name) == ("mine", "outside-lora", "lora")


def test_a_name_of_the_project_cannot_be_taken() -> None:
    """Registered as "lora", an outside class was exported to PEFT and given LoRA's recipe and row."""
    for taken in (
        lambda: variants.register("lora")(type("Other", (Variant,), {"__module__": __name__})),
        lambda: type("Other", (Variant,), {"__module__": __name__, "name": "vera"}),
    ):
        with pytest.raises(VariantError, match="(lora|vera)' ?,? ?.*a method of this project"):
            taken()
    assert registry.resolve("lora") is variants.LoRA
    with pytest.raises(VariantError, match="'penalty' cannot be an option"):
        type("Other", (Variant,), {"__module__": __name__, "__annotations__": {"penalty": float}, "penalty": 1.0})


def test_entry_point_of_an_installed_package(outside: Path) -> None:
    info = outside.parent / "someones_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-package\nVersion: 1.0\n")
    lines = [f"[{registry.ENTRY_POINTS}]", f"theirs = {outside.stem}:Mine", f"number = {outside.stem}:a_number"]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    assert {"theirs", "number"} <= set(registry.names())
    cls = registry.resolve("theirs")
    assert cls().strength == 2.0 and cls.name == "theirs" and registry.spec_of(cls) == "theirs"
    with pytest.raises(VariantError, match="'number' is not a variant"):
        registry.resolve("number")
    with pytest.raises(VariantError, match="did you mean theirs"):
        registry.resolve("thiers")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("lroa", "unknown variant 'lroa'; did you mean lora"),
        ("zzzzzz", "did you mean adalora, .*full, .*lora"),
        ("{module}:Mnie", "has no 'Mnie'; it has Mine"),
        ("{module}:a_number", "is not a variant: it must be a subclass"),
        ("no_such_module:Mine", "cannot load variant 'no_such_module:Mine'"),
        ("no/such/file.py:Mine", "cannot load variant"),
        ("{module}.py", r"is a file: name its class too, such as .*\.py:Class"),
        (":", "names no variant: write package.module:Class"),
        ("..{module}:Mine", "cannot load variant"),
    ],
)
def test_errors_name_the_nearest(spec: str, says: str, outside: Path) -> None:
    with pytest.raises(VariantError, match=says) as error:
        registry.resolve(spec.format(module=outside.stem))
    assert "\n" not in str(error.value)


def test_registering_another_class_under_a_name_warns(outside: Path) -> None:
    registry.resolve(f"{outside}:Decorated")
    with pytest.warns(UserWarning, match="'decorated-name' is registered again"):

        @variants.register("decorated-name")
        class Other(Variant):
            pass
