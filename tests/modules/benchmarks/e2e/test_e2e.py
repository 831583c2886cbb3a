"""E2E's recipes and its table: units, published figures, and where two protocols differ."""

import dataclasses
import json

import pytest

from modules.benchmarks.e2e import E2E
from modules.benchmarks.recipes import load_file as load_recipe_file
from modules.benchmarks.recipes import load_recipe
from modules.reports.formats.csv_table import to_csv
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.published import load_published
from modules.runs.results import RunResult
from paper_repro import PUBLISHED
from tests.support.results import run as glue_result


def test_paper_and_official_differ_where_they_say(tmp_path):
    paper, official = (load_recipe("gpt2-medium", name, "lora", "e2e", E2E) for name in ("paper", "official"))
    assert paper.options == official.options == {"r": 4, "alpha": 32, "dropout": 0.1, "target": "attn-qv"}
    differing = {key for key in paper.training if paper.training[key] != official.training.get(key)}
    assert differing == {"length_penalty", "adam_eps", "score_epoch"}
    assert paper.training.keys() == official.training.keys()
    assert (paper.training["length_penalty"], official.training["length_penalty"]) == (0.9, 0.8)
    assert official.training["adam_eps"] == 1e-6 and official.seeds == (110,)
    common = {"lr": 2e-4, "batch_size": 8, "epochs": 5, "warmup_steps": 500}
    common |= {"weight_decay": 0.01, "label_smoothing": 0.1}
    assert common.items() <= paper.training.items() and paper.training["gradient_clip_val"] == 0
    assert all(word in " ".join(official.remarks) for word in differing)


@pytest.mark.parametrize("path", sorted(E2E.configs.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_recipe_is_whole(path):
    for variant in load_recipe_file(path, E2E).variants:
        recipe = load_recipe(path.parent.name, path.stem, variant, "e2e", E2E)
        assert {"lr", "batch_size", "epochs", "max_length", "beams", "length_penalty"} <= recipe.training.keys()


def e2e_result(number: int, **test) -> RunResult:
    values = {"epoch": 3, "BLEU": 0.7, "NIST": 8.5, "METEOR": 0.46, "ROUGE_L": 0.71, "CIDEr": 2.5} | test
    template = dataclasses.asdict(glue_result())
    return RunResult(
        **template
        | {"id": f"{number:012x}", "benchmark": "e2e", "task": "e2e", "seed": number, "metric": "BLEU", "test": values}
        | {"best": {"epoch": 3, "BLEU": 0.6}, "last": {"epoch": 5, "BLEU": 0.5}}
        | {"backbone": {"source": "hub", "name": "openai-community/gpt2-medium", "hash": "ab"}}
        | {"data": {"source": "hub", "name": "e2e", "hash": "cd", "sizes": {"train": 42061, "test_inputs": 630}}}
    )


def test_the_table_has_test_scores_in_the_papers_units():
    published = load_published(PUBLISHED, "e2e")
    results = [e2e_result(0), e2e_result(1, BLEU=0.71, METEOR=None, NIST=8.7), glue_result()]
    sections = build(results, E2E, published)
    text = to_markdown(sections, E2E)
    (ours,) = [line for line in text.splitlines() if line.startswith("| [1]")]
    cells = [cell.strip() for cell in ours.split("|")]
    assert cells[4:9] == ["70.5 ±0.7", "8.60 ±0.14", "", "71.0 ±0.0", "2.50 ±0.00"]  # one run had no METEOR
    lora = [line for line in text.splitlines() if "LoRA on gpt2-medium" in line and line.startswith("|")]
    assert len(lora) == 3 and sum("8.85 ±0.02" in line for line in lora) == 1, "LoRA, VeRA and FourierFT ran it"
    assert "GLUE" not in text and "Avg" not in text
    assert "E2E 42,061 / 630" in text
    lines = to_csv(sections).splitlines()
    assert sum(line.startswith("ours,e2e") for line in lines) == 4 and "gpt2-large" not in "".join(lines)


def test_published_figures_are_the_papers():
    rows = {(row.source, row.model, row.method, row.params): row for row in load_published(PUBLISHED, "e2e")}
    lora = rows["LoRA, Table 3", "gpt2-medium", "LoRA", "0.35M"]
    assert lora.scores == {"bleu": 70.4, "nist": 8.85, "meteor": 46.8, "rouge_l": 71.8, "cider": 2.53}
    vera = rows["VeRA, Table 3", "gpt2-large", "VeRA", "0.17M"]
    assert vera.scores == {"bleu": 70.3, "nist": 8.85, "meteor": 46.9, "rouge_l": 71.6, "cider": 2.54}
    assert {row.mark for row in rows.values()} == {"run", "copied"} and json.dumps(lora.remarks)
