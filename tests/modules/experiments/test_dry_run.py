"""`--plan` prints whole commands and starts nothing."""

import shlex
from pathlib import Path

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.experiments.flags import make_parser
from variants.registry import resolve


def test_a_plan_needs_neither_hub_nor_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("modules.experiments.cost_estimate._hours", lambda group: (2.0, "measured"))
    flags = ["--table", "lora-2", "--rows", "roberta-base lora", "--seeds", "0,1", "--results_dir", str(tmp_path)]
    assert main([*flags, "--plan"], GLUE) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert len(commands) == 16 and all(
        line.startswith("python paper_repro/glue.py --variant lora") for line in commands
    )
    order = [shlex.split(line)[shlex.split(line).index("--tasks") + 1] for line in commands]
    assert order[:2] == ["mnli", "mnli"] and set(order[10:]) == {"mrpc", "rte", "stsb"}
    assert (
        lines[lines.index("# these start from the MNLI run of the same seed: only after that one has ended") - 1]
        == commands[9]
    )
    assert "# lora on roberta-base (paper): 16 runs, 3,376,550 optimizer steps, about 2.0 h" in lines
    assert not list(tmp_path.glob("runs/*"))
    for line in commands:  # each is a whole command
        parsed = make_parser(resolve("lora"), GLUE).parse_args(shlex.split(line)[2:])
        assert parsed.results_dir == str(tmp_path) and parsed.model == "FacebookAI/roberta-base"


def test_for_slurm_it_is_the_script_of_an_array(tmp_path, capsys, monkeypatch):
    """A task for each run, and those that start from it after it in the same task: none waits for another."""
    monkeypatch.setattr("modules.experiments.cost_estimate._hours", lambda group: (2.0, "measured"))
    monkeypatch.setenv("PATH", "")  # neither sbatch nor submitit is needed
    recipe = tmp_path / "slurm.yaml"
    recipe.write_text("slurm: {time: '1:30:00', partition: gpu}\nlaunch: slurm\n")
    flags = ["--table", "lora-2", "--rows", "roberta-base lora", "--seeds", "0,1", "--config", str(recipe)]
    assert main([*flags, "--plan", "--jobs", "3", "--results_dir", str(tmp_path)], GLUE) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --array=0-9%3" in lines
    assert "#SBATCH --time=90" in lines and "#SBATCH --partition=gpu" in lines
    tasks = shlex.split(text[text.index("commands=(") + len("commands=(") : text.index("\n)\n")])
    chains = [task for task in tasks if " && " in task]
    assert len(tasks) == 10 and len(chains) == 2
    for seed, chain in enumerate(chains):
        words = [shlex.split(command) for command in chain.split(" && ")]
        assert [each[each.index("--tasks") + 1] for each in words] == ["mnli", "mrpc", "rte", "stsb"]
        assert {each[each.index("--seeds") + 1] for each in words} == {str(seed)}


def test_from_another_folder_the_command_names_the_script_where_it_is(tmp_path, capsys, monkeypatch):
    """Such as that of a method of one's own: the printed lines are carried out there."""
    monkeypatch.setattr("modules.experiments.cost_estimate._hours", lambda group: (2.0, "measured"))
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "embedded", "--tasks", "rte", "--seeds", "0", "--plan"], GLUE) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if not line.startswith("#"))
    script = Path(shlex.split(line)[1])
    assert script.is_absolute() and script.is_file() and script.name == "glue.py"
