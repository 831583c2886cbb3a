"""A budget on the command line: the size that is picked, said and recorded."""

from __future__ import annotations

import json

import pytest

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from variants import LoRA


@pytest.mark.slow
def test_glue_picks_says_and_records(command, tmp_path, capsys, in_this_process) -> None:
    assert main([*command, "--variant", "adapter_p", "--budget", "600", "--epochs", "1"], GLUE) == 0
    shown = capsys.readouterr().out
    (path,) = (tmp_path / "results" / "runs").glob("*.json")
    result = json.loads(path.read_text())
    r = result["variant_config"]["r"]
    assert result["budget"] == {"wanted": 600, "counted": result["parameters"]["adapter"]}
    width, blocks = 16, 2
    assert result["parameters"]["adapter"] == blocks * (2 * width * r + r + width)
    assert min(range(1, 40), key=lambda n: abs(blocks * (2 * width * n + n + width) - 600)) == r
    assert f"budget 600: adapter_p with r={r} trains {result['parameters']['adapter']}" in shown


def test_the_same_size_by_hand_is_the_same_run(command) -> None:
    """What decides the outcome is the size, however it came about."""
    from modules.experiments.plan import make_plan
    from modules.experiments.wishes import Wishes

    options = dict(zip(command[::2], command[1::2], strict=True))
    common = {"model": options["--model"], "data_dir": options["--data_dir"], "tasks": ["rte"], "seeds": [0]}
    wished = make_plan(Wishes(benchmark=GLUE, variant="lora", budget="256", **common), LoRA)
    picked = {"r": wished.runs[0].options["r"]}
    by_hand = make_plan(Wishes(benchmark=GLUE, variant="lora", options=picked, **common), LoRA)
    assert wished.runs[0].id == by_hand.runs[0].id
    assert wished.runs[0].budget == {"wanted": 256, "counted": 256} and by_hand.runs[0].budget is None


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--variant", "lora", "--r", "4", "--budget", "600"], "give either --budget or --r"),
        (["--variant", "full", "--budget", "600"], "full has no size"),
        (["--variant", "lora", "--budget", "much"], "a budget is a number of parameters"),
    ],
)
def test_what_cannot_be_is_one_line(flags, says, command, capsys) -> None:
    assert main([*command, *flags], GLUE) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
