"""--config: a file's flags stand where it is named, and pass one reader."""

from __future__ import annotations

import pytest

from modules.benchmarks.glue import GLUE
from modules.experiments.config_files import expanded
from modules.experiments.flags import make_parser
from modules.experiments.wishes import Wishes
from variants.errors import UserError
from variants.registry import resolve


def wishes(*argv: str) -> Wishes:
    cls = resolve("lora")
    return Wishes.of(make_parser(cls, GLUE).parse_args(expanded(argv)), GLUE, cls)


def test_a_file_says_what_flags_say(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "tasks: [rte, mrpc]\nseeds: [1, 2]\nlr: 1.0e-3\nr: 4\nper_layer: {'*query': {r: 2}}\nbudget: 0.3M\n"
        "trainer: {devices: 2, precision: bf16-mixed}\nmodel: null\nreference: true\nresults_dir: ~/x\n"
    )
    found = wishes("--config", str(path))
    assert (found.tasks, found.seeds, found.training) == (["rte", "mrpc"], [1, 2], {"lr": 1e-3})
    assert found.options["r"] == 4 and found.options["per_layer"] == {"*query": {"r": 2}}
    assert found.trainer == {"devices": 2, "precision": "bf16-mixed"} and found.reference and found.model is None
    assert "~" not in found.results_dir and found.results_dir.endswith("/x")
    assert wishes("--config", str(path), "--r", "8").options["r"] == 8
    assert wishes("--r", "8", f"--config={path}").options["r"] == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "refers to itself"),
        ("- a", "must hold flags and values"),
        ("variant: evil.py:X", "a file brings no code: name it yourself, --variant evil.py:X"),
        ("config: x.yaml", "'config' is no flag that a file can give"),
        ("a b: 1", "'a b' is no flag that a file can give"),
        ("trainer: 5", "--trainer must be names and values"),
        ("lr: '&a [*a]'", "--lr: line 1: the alias .* refers to itself"),
        ("alpha: '!!timestamp 1'", "--alpha: the tag .* makes no value"),
        ("seeds: [-1]", "must lie between 0 and 4,294,967,295, not -1"),
        ("tasks: ''", "--tasks names no task"),
    ],
)
def test_a_file_that_holds_no_flags_is_refused(tmp_path, text, says):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        wishes("--config", str(path))
