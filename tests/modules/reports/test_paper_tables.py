"""The papers' tables: every row, ours beside it, the commands for the rest; and `--table`, `--rows`, `--plan`."""

import csv
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest

from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.experiments.cost_estimate import WIDTHS, _line, cost_lines, hours_text, width
from modules.experiments.flags import make_parser
from modules.experiments.published_runs import planned_runs, table_wishes
from modules.experiments.wishes import Wishes
from modules.reports.paper_rows import all_sections, choose, paper_rows
from modules.reports.paper_tables import paper_table, paper_tables
from modules.reports.published import load_all, load_table
from paper_repro import PUBLISHED
from tests.modules.reports.test_tables import run
from variants.errors import UserError
from variants.registry import resolve

ROOT = Path(__file__).resolve().parents[3]
TABLES = ("lora-1", "lora-2", "lora-3", "lora-4", "lora-5", "lora-6", "adalora-1", "vera-2", "vera-3", "third-party")


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    """The official numbers of rows, whatever data this machine has."""
    for own in (GLUE, E2E):
        monkeypatch.delenv(own.data_env, raising=False)


def shown(results, name="lora-2") -> list[dict[str, str]]:
    """Rows of a table's Markdown, by heading."""
    text = paper_table(PUBLISHED, name, all_sections(PUBLISHED, results))[f"{name}.md"].split("\n## ")[0]
    head, _, *rows = [[c.strip() for c in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(head, row, strict=True)) for row in rows]


def lacking(results, name="lora-2") -> list[dict[str, str]]:
    text = paper_table(PUBLISHED, name, all_sections(PUBLISHED, results))[f"{name}.csv"]
    return [line for line in csv.DictReader(io.StringIO(text)) if line["kind"] == "missing"]


# ---- published figures --------------------------------------------------------------------------------------------


def test_every_table_is_there_with_its_rows():
    counts = {name: len(load_table(PUBLISHED, name)) for name in TABLES}
    assert list(counts.values()) == [3, 14, 12, 8, 7, 15, 12, 13, 8, 7]
    assert sum(counts.values()) == len(load_all(PUBLISHED))
    with pytest.raises(UserError, match="lora-7.*lora-2"):
        load_table(PUBLISHED, "lora-7")


def test_figures_of_the_lora_paper():
    """Read from the paper again, a few of each table."""
    latency = load_table(PUBLISHED, "lora-1")
    assert latency[1].scores["1x128"] == 23.9 and latency[2].spread["32x512"] == 1.0
    gpt3 = {(row.method, row.params): row.scores for row in load_table(PUBLISHED, "lora-4")}
    assert gpt3["LoRA", "4.7M"] == dict(wikisql=73.4, mnli_m=91.7, samsum_r1=53.8, samsum_r2=29.8, samsum_rl=45.9)
    assert gpt3["FT", "175,255.8M"]["wikisql"] == 73.8 and gpt3["PreEmbed", "3.2M"]["mnli_m"] == 88.6
    five = {row.options["target"]: (row.options["r"], row.scores) for row in load_table(PUBLISHED, "lora-5")}
    assert list(five) == ["q", "k", "v", "o", "q,k", "q,v", "q,k,v,o"] and [r for r, _ in five.values()] == [8] * 4 + [
        4,
        4,
        2,
    ]
    assert five["q,k,v,o"][1] == dict(wikisql=73.7, mnli=91.7) and five["k"][1] == dict(wikisql=70.0, mnli=90.8)
    six = {(row.options["target"], row.options["r"]): row.scores for row in load_table(PUBLISHED, "lora-6")}
    assert six["q", 1] == dict(wikisql=68.8, mnli=90.7) and six["q,v", 8] == dict(wikisql=73.8, mnli=91.6)
    assert six["q,k,v,o", 64] == dict(wikisql=73.9, mnli=91.4) and len(six) == 15


# ---- ours beside theirs -------------------------------------------------------------------------------------------


def test_without_runs_every_published_row_is_there_and_says_how_it_is_filled():
    rows = shown([])
    papers = [row for row in rows if row["Whose"].startswith("published")]
    assert len(papers) == 14 and papers[0]["Whose"] == "published, copied there" and papers[4]["Whose"] == "published"
    assert papers[4]["MNLI"] == "87.5 ±0.3" and papers[4]["RTE"] == "86.6 ±0.7†" and papers[4]["Trained"] == "0.3M"
    ours = [row for row in rows if row["Whose"] == "ours"]
    assert len(ours) == 7 and not any(row[title] for row in ours for title in ("MNLI", "RTE", "Avg", "Seeds"))
    assert {line["row"] for line in lacking([])} == {str(number) for number in range(1, 15)}


def test_runs_fill_the_row_of_their_own_backbone_and_no_other():
    mine = [run("rte", 0.8 + 0.01 * seed, seed, protocol="paper") for seed in range(3)]
    others = [
        run("rte", protocol="paper", backbone__name="all-MiniLM-L6-v2", backbone__source="folder"),
        run("rte", protocol="embedded", backbone__name="embedded-roberta", backbone__source="embedded"),
        run("rte", protocol="paper", variant="dora"),
        run("rte", protocol="paper", variant_config__r=4),
    ]
    (row,) = [row for row in shown(mine + others) if row["RTE"] and row["Whose"] == "ours"]
    assert row["RTE"] == "81.0 ±1.0‡" and row["Seeds"] == "3" and row["Trained"] == "294,912"  # ‡: 90 rows, not 2,490
    whole = [run("rte", protocol="paper", data__sizes={"train": 2490, "validation": 277})]
    assert [r["RTE"] for r in shown(whole) if r["Whose"] == "ours" and r["RTE"]] == ["70.0 ±-"]


def test_what_is_done_is_no_longer_missing():
    before = {line["column"]: line["seeds"] for line in lacking([]) if line["row"] == "5"}
    assert before["rte"] == "0 1 2 3 4" and len(before) == 8
    done = [run("rte", 0.8, seed, protocol="paper") for seed in (0, 2)]
    after = {line["column"]: line["seeds"] for line in lacking(done) if line["row"] == "5"}
    assert after == before | {"rte": "1 3 4"}
    default = [run("rte", 0.8, seed, protocol="default") for seed in (0, 2)]  # shown, but not the paper's protocol
    assert [line for line in lacking(default) if line["row"] == "5" and line["column"] == "rte"][0][
        "seeds"
    ] == "0 1 2 3 4"
    assert any(row["Protocol"] == "default" and row["RTE"] for row in shown(default))


def test_restricted_rows_take_the_restricted_protocol_alone():
    runs = [
        run("rte", score, protocol=protocol, backbone__name="roberta-large")
        for score, protocol in ((0.87, "paper"), (0.85, "paper-dagger"))
    ]
    filled = [(row["Protocol"], row["RTE"]) for row in shown(runs) if row["Whose"] == "ours" and row["RTE"]]
    assert filled == [("paper", "87.0 ±-‡"), ("paper-dagger", "85.0 ±-‡")]


def test_other_backbones_stand_apart_where_nobody_has_the_papers_own():
    runs = [
        run("rte", 0.6 + r / 1000, seed, variant_config={"target": target, "r": r}, backbone__name="all-MiniLM-L6-v2")
        for target in ("q", "q,v")
        for r in (1, 8)
        for seed in (0, 1)
    ]
    text = paper_table(PUBLISHED, "lora-6", all_sections(PUBLISHED, runs))["lora-6.md"]
    published, ours = text.split("## Ours, on other backbones")
    assert "WikiSQL" in published and "60.8 ±0.0" not in published
    assert "no comparison" in ours and "all-MiniLM-L6-v2 (not RoBERTa)" in ours and "60.8 ±0.0" in ours
    assert "## Ours" not in paper_table(PUBLISHED, "lora-6", [])["lora-6.md"]


def test_every_command_for_a_missing_cell_is_one_that_the_scripts_take():
    scripts = {f"paper_repro/{own.script}": own for own in (GLUE, E2E)}
    texts = paper_tables(PUBLISHED, [])
    found = {line for name in TABLES for line in re.findall(r"`(python .* --variant .*)`", texts[f"{name}.md"])}
    assert len(found) > 40
    for line in found:
        _, script, *argv = shlex.split(line)
        flags = make_parser(resolve(argv[argv.index("--variant") + 1]), scripts[script]).parse_args(argv)
        assert flags.model and flags.preset in scripts[script].presets
        assert set(flags.tasks.split(",")) <= set(scripts[script].tasks)
    cells = [line for name in TABLES for line in lacking([], name) if line["missing"].startswith("python ")]
    assert len(cells) == 7 * 8 + 2 + 4 * 8 + 8 * 6 + 4  # LoRA's Tables 2 and 3, AdaLoRA's 1, VeRA's 2 and 3


def test_the_same_runs_give_the_same_bytes_in_three_formats():
    runs = [run("rte", 0.8, seed, protocol="paper") for seed in range(3)]
    first, second = paper_tables(PUBLISHED, runs), paper_tables(PUBLISHED, runs[::-1])
    assert first == second and set(first) == {f"{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")}
    tex = first["lora-2.tex"]
    assert tex.count(r"\begin{tabular}") == 1 and r"Adapter\textasciicircum{}D" in tex and r"80.0 $\pm$0.0" in tex
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") - line.count(r"\&") for line in body}) == 1


# ---- rows as runs -------------------------------------------------------------------------------------------------


def wishes(table="lora-2", words=None, **changes):
    return table_wishes(PUBLISHED, table, words, Wishes(**{"benchmark": GLUE} | changes))


def test_words_choose_rows():
    rows = paper_rows(PUBLISHED, "lora-2")
    assert [row.number for row in choose(rows, "roberta-base lora", "lora-2")] == [5]
    assert [row.number for row in choose(rows, "RoBERTa-large LoRA dagger", "lora-2")] == [12]
    assert len(choose(rows, None, "lora-2")) == 14
    with pytest.raises(UserError, match="fits no row of lora-2.*LoRA on roberta-base, 0.3M"):
        choose(rows, "roberta-huge", "lora-2")


def test_a_row_becomes_its_recipes_runs():
    able, skipped = wishes(words="roberta-base")
    assert [(w.variant, w.preset, w.model, w.options) for w in able] == [
        ("lora", "paper", "FacebookAI/roberta-base", {})
    ]
    assert len(skipped) == 4 and all("not run: [" in line for line in skipped)
    found = planned_runs(able[0])
    assert len(found) == 8 * 5 and {job.seed for job in found} == {0, 1, 2, 3, 4}
    by_task = {job.recipe.task: job for job in found}
    assert by_task["rte"].steps == 78 * 80 and by_task["rte"].starts  # ceil(2,490 / 32) batches, 80 epochs
    assert by_task["mnli"].steps == 24_544 * 30 and not by_task["mnli"].starts  # ceil(392,702 / 16)
    small, _ = wishes("adalora-1", "adalora 0.32M")
    assert small[0].options == {"init_r": 4, "target_r": 2}
    (only,) = wishes(words="roberta-base lora", tasks=["rte"], seeds=[7])[0]
    found = planned_runs(only)
    assert [(job.recipe.task, job.seed) for job in found] == [("mnli", 7), ("rte", 7)]  # it starts from MNLI


def test_rows_that_cannot_be_run_say_why():
    with pytest.raises(UserError, match="use paper_repro/e2e.py"):
        wishes("lora-3")
    with pytest.raises(UserError, match="GPT-3 175B are not public"):
        wishes("lora-6")
    with pytest.raises(UserError, match="copied the row.*--preset default"):
        wishes(words="bitfit")
    (fallback,), _ = wishes(words="adapter^d 0.9M", preset="default")
    assert (fallback.variant, fallback.preset, fallback.options) == ("adapter_d", "default", {"r": 48})
    with pytest.raises(UserError, match="--model stands for one backbone"):
        wishes(model="somewhere")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rows", "x"], "--rows needs --table"),
        (["--table", "lora-2", "--variant", "dora"], "leave --variant out"),
        (["--table", "lora-2", "--r", "4"], "leave --r out"),
        (["--table", "lora-2", "--rows", "lora roberta-base", "--tasks", "wnli"], "has no task of wnli"),
        (["--plan", "--budget", "1M", "--preset", "embedded"], "does not size"),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    assert main(argv, GLUE) == 2
    assert words in (err := capsys.readouterr().err) and err.count("\n") == 1


# ---- plan ---------------------------------------------------------------------------------------------------------


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


def test_hours_come_from_steps_and_lengths():
    (job,) = [j for j in planned_runs(wishes(words="roberta-base lora")[0][0]) if (j.recipe.task, j.seed) == ("rte", 0)]
    assert width(job) == WIDTHS["rte"][32] and set(WIDTHS) == {*GLUE.tasks, *E2E.tasks}
    assert _line([(100, 1.0), (300, 2.0)], 500) == pytest.approx(3.0)
    assert _line([(100, 2.0), (300, 1.5)], 600) == pytest.approx(3.0)  # noise: a larger batch never costs less
    assert [hours_text(h) for h in (0.5, 2.345, 1234.5)] == ["30 min", "2.3 h", "1,234 h"]
    assert cost_lines([]) == ["nothing is missing"]


def test_an_estimate_is_of_the_right_size(capsys):
    """Measured for the embedded model; the reference runs took 9 minutes on two cores, two at once."""
    assert main(["--plan", "--preset", "embedded", "--tasks", "rte", "--results_dir", "nowhere"], GLUE) == 0
    out = capsys.readouterr().out
    assert (
        "--preset embedded --results_dir nowhere --tasks rte --seeds 0" in out and "1 runs, 252 optimizer steps" in out
    )
    assert " min on one such device" in out


def test_a_table_is_run_and_fills(tiny_model, tiny_tsv, tmp_path, capsys, monkeypatch):
    """A task of the row of LoRA's Table 2 on a model that has its name; what is done is not done again."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the workers
    model, results = tmp_path / "roberta-base", tmp_path / "results"
    shutil.copytree(tiny_model, model)
    flags = ["--table", "lora-2", "--rows", "roberta-base lora", "--model", str(model), "--data_dir", str(tiny_tsv)]
    flags += ["--tasks", "rte", "--seeds", "0", "--epochs", "1", "--results_dir", str(results), "--wandb", "off"]
    flags += ["--trainer.accelerator", "cpu", "--jobs", "1"]
    assert main(flags, GLUE) == 0
    assert "2 runs;" in (out := capsys.readouterr().out) and "lora-2.md" in out  # MNLI, and RTE that starts from it
    table = (results / "tables" / "papers" / "lora-2.md").read_text()
    (ours,) = [line for line in table.splitlines() if "| ours " in line and "target=attn-qv r=8" in line]
    assert ours.count("†‡") == 1 and ours.count("‡") == 2 and "paper" in ours
    assert main([*flags, "--plan"], GLUE) == 0
    assert "2 runs, 2 done before" in (out := capsys.readouterr().out) and "nothing is missing" in out
