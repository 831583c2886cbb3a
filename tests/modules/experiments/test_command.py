"""The command line: help, one-line errors, presets, variants from outside, and what it leaves behind."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = str(ROOT / "paper_repro" / "glue.py")


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options)


def test_help_comes_without_torch_and_teaches():
    done = python("-X", "importtime", SCRIPT, "--help", check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "jsonargparse" in imported and not imported & {"torch", "lightning", "transformers", "numpy"}
    for text in ("--variant", "--r R", "rank of the update", "(default: 8)", "--epochs", "--trainer", "examples:"):
        assert text in done.stdout


@pytest.mark.parametrize(
    "variant, option", [("adalora", "--target_r"), ("dora", "--dropout_mode"), ("vera", "--d_init")]
)
def test_help_shows_the_options_of_the_chosen_variant(variant, option, capsys):
    assert main(["--variant", variant, "--help"], GLUE) == 0
    assert option in capsys.readouterr().out


MISTAKES = {
    "unknown variant": (["--variant", "lorra"], "unknown variant 'lorra'; did you mean lora"),
    "option of another variant": (["--variant", "head", "--r", "8"], "--r is an option of .*, lora.*, not of"),
    "unknown option": (["--batchsize", "3"], "unknown option --batchsize; did you mean --batch_size"),
    "r of 0": (["--r", "0"], "r must be at least 1, not 0"),
    "r not a number": (["--r", "eight"], "--r must be int, not 'eight'"),
    "unknown task": (["--tasks", "rte,glue"], "unknown task 'glue'; the tasks are mnli"),
    "unknown preset": (["--preset", "papper"], "unknown preset 'papper'; choose auto"),
    "seed not a number": (["--seeds", "0,x"], "--seeds must be whole numbers such as 0,1,2"),
    "negative rate": (["--lr", "-1", "--tasks", "rte"], "lr must be a positive number, got -1"),
    "unknown Trainer option": (["--trainer.device", "2"], "--trainer.device is no option.*did you mean devices"),
    "owned Trainer option": (
        ["--trainer.max_epochs", "2"],
        "--trainer.max_epochs is set by this project; use --epochs",
    ),
    "no such config": (["--config", "nowhere.yaml"], "--config nowhere.yaml cannot be read"),
    "variant without a module": (["--variant", "nowhere_at_all:X"], "cannot load variant 'nowhere_at_all:X'"),
    "no such data folder": (["--model", "embedded", "--data_dir", "/nowhere"], "the embedded backbone knows only"),
    "no model": (["--model", "/no/such/model"], "neither a folder nor a Hub id"),
    "dropout out of range": (["--dropout", "1.5"], r"dropout must lie in \[0, 1\), not 1.5"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2(mistake, capsys, tmp_path):
    arguments, message = MISTAKES[mistake]
    assert main([*arguments, "--results_dir", str(tmp_path)], GLUE) == 2
    error = capsys.readouterr().err.strip()
    assert re.fullmatch("error: [^\n]*", error) and re.search(message, error), error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_mistakes_that_only_the_run_can_see_get_one_line_too(command, capfd, in_this_process):
    assert main([*command, "--r", "17"], GLUE) == 2  # the tiny model is 16 wide
    error = capfd.readouterr().err
    assert "error: rte lora seed 0: r=17 is more than roberta.encoder.layer.0.attention.self.query allows" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_target_that_matches_nothing_names_the_nearest(command, capfd, in_this_process):
    assert main([*command, "--target", "querry"], GLUE) == 2
    assert "target='querry' matches no linear map; the nearest are query" in capfd.readouterr().err


def test_malformed_tsv_names_file_and_line(command, tiny_tsv, tmp_path, capsys):
    broken = tmp_path / "glue" / "RTE"
    broken.mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        (broken / name).write_text((tiny_tsv / "RTE" / name).read_text())
    with open(broken / "dev.tsv", "a") as file:
        file.write("11\tonly two cells\n")
    assert main([*command, "--data_dir", str(tmp_path / "glue")], GLUE) == 2
    assert re.search(r"dev\.tsv:13: expected 4 tab-separated columns, found 2", capsys.readouterr().err)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(command, capfd, monkeypatch, tmp_path):
    """/dev/full stands for the disk: every write to it fails with the system's own error."""
    from modules.command_line import is_user_error, one_line

    with open("/dev/full", "w") as file, pytest.raises(OSError) as caught:
        file.write("x" * 100_000)
    assert is_user_error(caught.value) and "No space left" in one_line(caught.value)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main([*command, "--results_dir", str(tmp_path / "full")], GLUE) == 2
    assert "cannot write" in capfd.readouterr().err and not list((tmp_path / "full").rglob("*.json"))


@pytest.mark.slow
def test_without_gpu_the_first_lines_name_the_embedded_source(tmp_path, capfd, in_this_process):
    """The plain command, cut short: what it takes, where it writes, the published row beside ours."""
    flags = ["--tasks", "rte", "--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "4", "--epochs", "1"]
    flags += ["--preset", "embedded", "--results_dir", str(tmp_path), "--wandb", "off"]
    assert main([*flags, "--variant", "lora", "--r", "8"], GLUE) == 0
    out = capfd.readouterr().out
    assert "embedded-roberta" in out.splitlines()[0] and "rte lora seed 0 (truncated): epoch 1/1" in out
    table = (tmp_path / "tables" / "glue.md").read_text()
    assert "not RoBERTa" in table and "86.6" in table  # the paper's RTE beside ours
    assert (tmp_path / "tables" / "glue.csv").is_file()


def test_a_rank_that_comes_before_the_first_finds_its_runs(command, monkeypatch, tmp_path, in_this_process):
    """Under torchrun and srun nobody says which rank is first."""
    found = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    folder = str(tmp_path / "shared")

    def carry_out(groups, *_) -> int:
        found.extend(RunConfig.read(folder, run.id) for group in groups for run in group)
        return 0

    monkeypatch.setattr("modules.experiments.command.carry_out", carry_out)
    assert main([*command, "--results_dir", folder], GLUE) == 0
    assert found


def test_a_persons_own_runs_are_not_tracked():
    paths = ["results/runs/0123456789ab.json", "results/tables/glue.md", "wandb/run", "results/runs/x/last.ckpt"]
    done = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == paths


# ---- a variant of one's own ----------------------------------------------------------------------------------------


def readme_variant() -> str:
    """The README's example of a method in one file."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(# my_file\.py.*?)```", text, re.S)[1]


@pytest.mark.slow
def test_the_readmes_variant_trains_saves_reloads_merges_and_is_in_the_table(command, tmp_path, monkeypatch, capfd):
    source = readme_variant()
    assert len(source.splitlines()) <= 30
    (tmp_path / "my_file.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    sys.modules.pop("my_file", None)
    assert main([*command, "--variant", "my_file:MyVariant", "--r", "2", "--lr", "0.01"], GLUE) == 0
    name = sys.modules["my_file"].MyVariant.name
    assert name in (tmp_path / "results" / "tables" / "glue.md").read_text()
    (result,) = ResultStore(tmp_path / "results").all()
    assert result.variant == name and result.variant_config["r"] == 2 and result.parameters["adapter"] > 0

    import torch

    from modules.backbones.loading import load_backbone
    from modules.benchmarks.glue.tasks import TASKS
    from variants import load

    best = tmp_path / "results" / "runs" / result.id / "best"
    assert json.loads((best / "adapter.json").read_text())["variant"] == "my_file:MyVariant"
    model, tokenizer, _ = load_backbone(command[1], TASKS["rte"])
    adapted = load(model, best, strict=True)
    inputs = tokenizer(["1 2 3", "RTE 4"], ["number 5", "premise"], padding=True, return_tensors="pt")
    with torch.no_grad():
        unmerged = model.eval()(**inputs).logits
        assert adapted.merge() < 1e-4
        assert torch.allclose(model(**inputs).logits, unmerged, atol=1e-5)
    assert any(t.abs().sum() > 0 for t in load_file(best / "adapter.safetensors").values())


@pytest.mark.slow
def test_an_entry_point_names_a_variant(tmp_path, monkeypatch):
    """A package that declares the group ``lora_variants`` adds a name to --variant."""
    (tmp_path / "my_file.py").write_text(readme_variant())
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lora_variants]\nmine-by-entry-point = my_file:MyVariant\n")
    code = (
        "from variants import names, resolve; print('mine-by-entry-point' in names(), resolve('mine-by-entry-point'))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    assert "True <class 'my_file.MyVariant'>" in python("-c", code, env=environment, check=True).stdout


def test_editing_a_variant_makes_a_new_run(command, tmp_path, monkeypatch):
    from tests.support.runs import planned

    monkeypatch.chdir(tmp_path)
    (tmp_path / "edited_file.py").write_text(readme_variant())
    sys.modules.pop("edited_file", None)
    (before,) = planned(command, "edited_file:MyVariant")
    (tmp_path / "edited_file.py").write_text(readme_variant() + "\n# changed\n")
    (after,) = planned(command, "edited_file:MyVariant")
    assert before.id != after.id


IN_ONE = """
import sys
from modules.launch import worker
from modules.launch.jobs import launch
from paper_repro import glue

launch.run_workers = lambda ids, folder, *_, **__: worker.main([folder, *ids])
sys.exit(glue.main(sys.argv[1:]))
"""
"""The command, with its runs in the same process."""


@pytest.mark.slow
def test_the_papers_preset_runs_from_the_hub(tmp_path):
    """The command itself against a local Hub: RoBERTa's id, the data set's id, the paper's recipe, MNLI first."""
    from tests.support.hub_server import HubServer, tiny_glue, tiny_roberta

    repos = {("models", "FacebookAI/roberta-base"): tiny_roberta(), ("datasets", "nyu-mll/glue"): tiny_glue()}
    with HubServer(repos) as server:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
        for name in ("HF_HUB_OFFLINE", "GLUE_DIR"):
            environment.pop(name, None)
        flags = ["--preset", "paper", "--tasks", "rte", "--seeds", "0", "--epochs", "1", "--wandb", "off"]
        flags += ["--trainer.accelerator", "cpu", "--results_dir", str(tmp_path / "results")]
        done = python("-c", IN_ONE, *flags, env=environment)
    assert done.returncode == 0, done.stderr
    assert "FacebookAI/roberta-base (hub)" in done.stdout and "nyu-mll/glue" in done.stdout
    assert done.stdout.index("mnli lora seed 0") < done.stdout.index("rte lora seed 0")
    rte, mnli = sorted(ResultStore(tmp_path / "results").all(), key=lambda result: result.task, reverse=True)
    assert rte.init_from == {"task": "mnli", "id": mnli.id} and rte.protocol == "paper"
    assert rte.training["lr"] == 5e-4 and rte.training["batch_size"] == 32 and rte.variant_config["alpha"] == 8
    assert rte.overrides == {"epochs": 1} and rte.training["weight_decay"] == 0.1


@pytest.mark.slow
def test_no_hub_under_preset_paper_is_one_line_within_seconds(tmp_path):
    """Nothing listens on the endpoint: the line names it and the mend; the look takes at most five seconds."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    environment.pop("HF_HUB_OFFLINE", None)
    start = time.time()
    done = python(SCRIPT, "--preset", "paper", "--tasks", "rte", "--results_dir", str(tmp_path / "r"), env=environment)
    assert done.returncode == 2 and time.time() - start < 30  # imports on a busy machine included
    assert re.fullmatch(
        r"error: the Hub \(http://127.0.0.1:9\) cannot be reached[^\n]*--preset embedded[^\n]*\n", done.stderr
    )
