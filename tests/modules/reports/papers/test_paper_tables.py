"""The papers' tables: every row, ours beside it, and the commands for the rest."""

import csv
import io
import re
import shlex

import pytest

from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.benchmarks.instruct import INSTRUCT
from modules.experiments.flags import make_parser
from modules.reports.papers.paper_rows import choose, paper_rows
from modules.reports.papers.paper_tables import paper_table, paper_tables
from modules.reports.tables.build import all_sections
from modules.reports.tables.published import load_all, load_table
from paper_repro import PUBLISHED
from tests.support.results import run
from variants.errors import UserError
from variants.registry import resolve

TABLES = ("lora-1", "lora-2", "lora-3", "lora-4", "lora-5", "lora-6", "adalora-1", "vera-2", "vera-3", "third-party")
TABLES += ("dora-1", "dora-15", "llm-adapters-commonsense", "llm-adapters-math")
TABLES += (
    "fourierft-2",
    "fourierft-3",
    "vblora-1",
    "vblora-2",
    "randlora-4",
    "unilora-glue",
    "eva-glue",
    "galore-4",
    "qlora-2",
    "qlora-3",
    "qlora-4",
)


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
    assert list(counts.values()) == [
        3,
        14,
        12,
        8,
        7,
        15,
        12,
        13,
        8,
        5,
        19,
        10,
        17,
        17,
        15,
        6,
        15,
        6,
        6,
        5,
        4,
        4,
        4,
        6,
        3,
    ]
    assert sum(counts.values()) == len(load_all(PUBLISHED))
    with pytest.raises(UserError, match="lora-7.*lora-2"):
        load_table(PUBLISHED, "lora-7")


def test_glue_rows_say_what_hides_under_the_name():
    """MNLI's start, the head's rate and the scored epoch, of each row that is known to have them."""
    words = {(row.table, row.model, row.method): row.conditions for row in load_all(PUBLISHED)}
    assert words["fourierft-2", "roberta-base", "FourierFT"] == "no start from MNLI, own head rate, best dev epoch"
    lora = "3 tasks start from MNLI, the adapter's rate for the head, best dev epoch"
    assert words["lora-2", "roberta-base", "LoRA"] == lora
    last = "no start from MNLI, the adapter's rate for the head, last epoch"
    assert words["randlora-4", "roberta-large", "RandLoRA-100"] == last
    assert (
        words["unilora-glue", "roberta-large", "Uni-LoRA"] == "start, head rate and epoch not stated"
        and words["fourierft-3", "gpt2-large", "LoRA"] == "last epoch"
    )
    text = paper_table(PUBLISHED, "randlora-4", [])["randlora-4.md"]
    assert f"[1], [2], [3], [4], [5], [6]: {last}." in text


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


def test_figures_of_the_qlora_paper():
    three = {row.method: row for row in load_table(PUBLISHED, "qlora-3")}
    glue = {method: row.scores.get("glue") for method, row in three.items()}
    assert list(glue.values()) == [88.6, 88.6, 88.8, 88.8, 88.6, None]
    assert {row.variant for row in three.values()} == {"full", "lora"}
    assert three["QLoRA NF4 + DQ"].scores["sni_11b"] == 60.9 and "sni_11b" not in three["BF16 replication"].scores
    four = load_table(PUBLISHED, "qlora-4")
    assert [row.average for row in four] == [53.0, 52.2, 53.1] and four[2].scores["65b_flan"] == 63.9
    for row in four:
        off = abs(sum(row.scores.values()) / 8 - row.average)
        assert len(row.scores) == 8 and (off <= 0.05) == (row.caution is None), row.method
    (first, *_) = shown([], "qlora-4")
    assert (
        first["7B Alpaca"] == "38.4" and first["Avg"] == "53" and first["Method"] == "BFloat16 on LLaMA from 7B to 65B"
    )
    assert shown([], "qlora-3")[5]["GLUE"] == "" and shown([], "qlora-3")[5]["SuperNI T5-11B"] == "60.9"


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
    assert [r["RTE"] for r in shown(whole) if r["Whose"] == "ours" and r["RTE"]] == ["70.0"]


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
    assert filled == [("paper", "87.0‡"), ("paper-dagger", "85.0‡")]


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


def test_runs_on_generated_tasks_are_in_no_papers_table():
    """Whatever the backbone: neither below a row, nor on other backbones, where they once stood with MNLI's name."""
    grid = [(target, r, seed) for target in ("q", "q,v") for r in (1, 8) for seed in (0, 1)]
    made = [
        run(task, 0.6, seed, variant=variant, variant_config={"target": target, "r": r}, protocol="paper",
            backbone__name=model, data__source="embedded", data__name="embedded-glue(seed 0)")
        for target, r, seed in grid for task in ("mnli", "rte") for variant in ("lora", "full")
        for model in ("roberta-base", "embedded-roberta")
    ]  # fmt: skip
    for name in ("lora-2", "lora-4", "lora-6"):
        mine, none = (paper_table(PUBLISHED, name, all_sections(PUBLISHED, runs)) for runs in (made, []))
        assert mine == none, name


@pytest.mark.slow
def test_every_command_for_a_missing_cell_is_one_that_the_scripts_take():
    scripts = {f"paper_repro/{own.script}": own for own in (GLUE, E2E, INSTRUCT)}
    texts = paper_tables(PUBLISHED, [])
    found = {line for name in TABLES for line in re.findall(r"`(python .* --variant .*)`", texts[f"{name}.md"])}
    assert len(found) > 40
    for line in found:
        _, script, *argv = shlex.split(line)
        flags = make_parser(resolve(argv[argv.index("--variant") + 1]), scripts[script]).parse_args(argv)
        assert flags.model and flags.preset in scripts[script].presets
        assert set(flags.tasks.split(",")) <= set(scripts[script].tasks)
    cells = [line for name in TABLES for line in lacking([], name) if line["missing"].startswith("python ")]
    glue_and_e2e = 7 * 8 + 2 + 4 * 8 + 8 * 6 + 4  # LoRA's Tables 2 and 3, AdaLoRA's 1, VeRA's 2 and 3
    newer = 2 * 6 + 4 * 6  # FourierFT's and VB-LoRA's own rows
    assert len(cells) == glue_and_e2e + newer + 12 + 10 + 2 + 2  # DoRA's 1 and 15, LLM-Adapters' two: all columns a run


def test_the_same_runs_give_the_same_bytes_in_three_formats():
    runs = [run("rte", 0.8, seed, protocol="paper") for seed in range(3)]
    first, second = paper_tables(PUBLISHED, runs), paper_tables(PUBLISHED, runs[::-1])
    assert first == second and set(first) == {f"{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")}
    tex = first["lora-2.tex"]
    assert tex.count(r"\begin{tabular}") == 1 and r"Adapter\textasciicircum{}D" in tex and r"80.0 $\pm$0.0" in tex
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") - line.count(r"\&") for line in body}) == 1


def test_words_choose_rows():
    rows = paper_rows(PUBLISHED, "lora-2")
    assert [row.number for row in choose(rows, "roberta-base lora", "lora-2")] == [5]
    assert [row.number for row in choose(rows, "RoBERTa-large LoRA dagger", "lora-2")] == [12]
    assert len(choose(rows, None, "lora-2")) == 14
    with pytest.raises(UserError, match="fits no row of lora-2.*LoRA on roberta-base, 0.3M"):
        choose(rows, "roberta-huge", "lora-2")
