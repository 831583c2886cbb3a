"""Published numbers of parameters: counted on meta models, and derived from shapes by hand."""

from __future__ import annotations

import ast
import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

from modules.reports.papers import parameter_counts
from modules.reports.tables.published import load_published
from paper_repro import params
from tests.support.models import MODELS
from variants import AdapterD, Full, LoRA, attach
from variants.formats.native import TENSORS, save_adapter

ROOT = Path(__file__).resolve().parents[4]
_, ROWS = parameter_counts.published_counts()
COUNTABLE = [row for row in ROWS if row.variant]
OPERATORS = {ast.Add: operator.add, ast.Mult: operator.mul}


def value(arithmetic: str) -> int:
    """Sums and products of whole numbers."""

    def of(node: ast.expr) -> int:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int)
            return node.value
        return OPERATORS[type(node.op)](of(node.left), of(node.right))

    return of(ast.parse(arithmetic, mode="eval").body)


@pytest.fixture(scope="module")
def counted() -> list[parameter_counts.CountedRow]:
    models, rows = parameter_counts.published_counts()
    built = {name: parameter_counts.build_model(models[name]) for name in dict.fromkeys(row.model for row in rows)}
    assert all(p.is_meta for model in built.values() for p in model.parameters())
    return [parameter_counts.count(row, built[row.model]) for row in rows]


@pytest.mark.slow
def test_every_count_is_its_arithmetic(counted) -> None:
    wrong = [(r.table, r.model, r.method, r.counted) for r in counted if r.variant and value(r.arithmetic) != r.counted]
    assert not wrong


@pytest.mark.slow
def test_every_count_is_the_print_or_explained(counted) -> None:
    assert not [(r.table, r.method) for r in counted if r.variant and not r.follows and not r.remark]
    assert not [(r.table, r.method) for r in counted if not r.variant and r.counted is not None]
    assert sum(r.follows is True for r in counted) >= 55


def test_each_row_is_there_once() -> None:
    keys = [(r.table, r.model, r.method, r.printed, json.dumps(r.options)) for r in ROWS]
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_the_totals_of_the_models() -> None:
    """As transformers' users know them; GPT-3 and the heads' sizes from the shapes."""
    models, _ = parameter_counts.published_counts()
    known = {
        "roberta-base": 124647170,
        "roberta-large": 355361794,
        "deberta-v3-base": 184423682,
        "gpt2": 124439808,
        "gpt2-medium": 354823168,
        "gpt2-large": 774030080,
        "llama-7b": 6738415616,
        "Llama-2-7b-hf": 6738415616,
        "llama-13b": 13015864320,
        "Meta-Llama-3-8B": 8030261248,
        "gpt3-175b": 174604259328,
        "deberta-v2-xxlarge": 1564549632 + 1536 * 1536 + 1536 + 2 * 1536 + 2,
    }
    built = {name: parameter_counts.build_model(models[name]) for name in known}
    assert {name: sum(p.numel() for p in model.parameters()) for name, model in built.items()} == known
    assert set(known) == set(models)


def test_every_published_glue_row_is_among_them() -> None:
    """By model and printed size: 3M in one table is 3.0M in another."""
    sizes = {(row.model, parameter_counts.printed_value(row.printed)[0]) for row in ROWS}
    published = load_published(ROOT / "paper_repro" / "published", "glue")
    lost = [
        (r.source, r.model, r.method)
        for r in published
        if r.params and (r.model, parameter_counts.printed_value(r.params)[0]) not in sizes
    ]
    assert not lost


def test_published_variants_exist() -> None:
    from variants import registry

    named = {r.variant for r in [*ROWS, *load_published(ROOT / "paper_repro" / "published", "glue")] if r.variant}
    assert named <= set(registry.BUILT_IN)
    assert {"bitfit", "adapter_h", "adapter_l", "adapter_p", "adapter_d", "prefix_embed", "prefix_layer"} <= named


@pytest.mark.parametrize(
    ("count", "text", "total", "follows"),
    [
        (294912, "0.3M", 0, True),
        (349999, "0.3M", 0, True),
        (250000, "0.3M", 0, True),
        (350001, "0.3M", 0, False),
        (393216, "0.35M", 0, False),
        (355361794, "355.0M", 0, False),
        (184423682, "184M", 0, True),
        (18456, "18.4K", 0, False),
        (175255800000, "175,255.8M", 0, True),
        (83, "0.83%", 10000, True),
        (836, "0.83%", 100000, False),
    ],
)
def test_a_print_is_taken_at_its_digits(count, text, total, follows) -> None:
    assert parameter_counts.rounds_to(count, text, total) == follows


@pytest.mark.slow
def test_released_files_are_of_the_size_that_is_counted(counted) -> None:
    """The LoRA authors' files, head included where there is one: 3.4 and 1.5 MB (their README means MiB)."""
    found = {(r.model, r.table): r for r in counted if r.method == "LoRA"}
    assert round(found["roberta-base", "LoRA, Table 2"].bytes["file"] / 2**20, 1) == 3.4
    assert round(found["gpt2-medium", "LoRA, Table 3"].bytes["file"] / 2**20, 1) == 1.5


@pytest.mark.parametrize("variant", [LoRA(r=2), AdapterD(r=2, share=True), Full()], ids=lambda v: v.name)
def test_file_size_is_that_of_a_file(variant, tmp_path) -> None:
    adapted = attach(MODELS["roberta"](), variant)
    save_adapter(adapted, tmp_path)
    assert parameter_counts.file_bytes(parameter_counts._in_file(adapted)) == (tmp_path / TENSORS).stat().st_size


@pytest.mark.slow
def test_bytes_of_training(counted) -> None:
    (row,) = [r for r in counted if r.table == "VeRA, Table 2" and r.model == "roberta-base" and r.method == "VeRA"]
    trained = 43008 + 592130
    assert row.bytes["gradients"] == 4 * trained and row.bytes["adam"] == 8 * trained
    assert row.bytes["weights"] == 4 * (124647170 + 43008 + 2 * 1024 * 768), (
        "with the shared matrices, which are frozen"
    )
    models, rows = parameter_counts.published_counts()
    half = parameter_counts.count(rows[0], parameter_counts.build_model(models["roberta-base"]), weight_bytes=2)
    assert half.bytes["weights"] == 4 * 124647170, "what trains is in fp32 whatever the frozen weights are in"


# ---- the command ----------------------------------------------------------------------------------------------


def test_help_needs_no_torch() -> None:
    script = (
        "import sys; from paper_repro import params\n"
        "try: params.main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'yaml'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--json" in done.stdout, done.stderr


def test_table_and_json(capsys) -> None:
    assert params.main(["--table", "VeRA, Table 2", "--model", "roberta-base"]) == 0
    shown = capsys.readouterr().out
    line = next(text for text in shown.splitlines() if " VeRA " in text)
    assert "0.043M" in line and "43,008" in line and " = " in line and "24*(768+1024)" in line
    assert "124.6M, printed as 125" in shown and shown.splitlines()[-1].startswith("6 rows: 5 follow (=), 1 do not")
    assert params.main(["--table", "VeRA, Table 2", "--model", "roberta-base", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["counted"] for r in rows if r["method"] == "VeRA"] == [43008]


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--model", "bert"], "is none of roberta-base"), (["--table", "Table 99"], "no row is of")]
)
def test_bad_usage_is_one_line(arguments, says, capsys) -> None:
    from modules.command_line import guarded

    assert guarded(lambda: params.main(arguments)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
