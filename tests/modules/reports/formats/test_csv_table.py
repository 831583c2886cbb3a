"""Every figure of the CSV file is backed by run files."""

import csv
import io
import json

from modules.benchmarks.glue import GLUE
from modules.reports.formats.csv_table import to_csv
from modules.reports.tables.build import build
from tests.support.results import run
from tests.support.tables import PAPERS


def test_every_figure_of_the_csv_is_backed_by_run_files():
    results = [
        run(task, 0.5 + 0.1 * seed, seed, last=0.4 + 0.1 * seed) for task in ("rte", "cola") for seed in (0, 1, 2)
    ]
    by_id = {result.id: result for result in results}
    cells = list(csv.DictReader(io.StringIO(to_csv(build(results, GLUE, PAPERS)))))
    ours = [cell for cell in cells if cell["kind"] == "ours"]
    assert [cell["task"] for cell in ours] == ["cola", "rte"]  # the papers' order
    for cell in ours:
        runs = [by_id[id] for id in cell["run_ids"].split()]
        assert {r.task for r in runs} == {cell["task"]} and len(runs) == 3
        assert (cell["value"], cell["spread"]) == ("60.00", "10.00")
        assert (cell["last_value"], cell["last_spread"]) == ("50.00", "10.00")
        assert cell["best_epochs"] == "3 3 3" and cell["seeds"] == "0 1 2" and cell["metric"] == runs[0].metric
        assert (
            json.loads(cell["training"]) == runs[0].training and json.loads(cell["options"]) == runs[0].variant_config
        )
    papers = [cell for cell in cells if cell["kind"] == "published"]
    sources = {"LoRA, Table 2": "2106.09685v2", "RandLoRA, Table 4": "2502.00987v2", "GaLore, Table 4": "2403.03507"}
    assert {cell["source"] for cell in papers} == {f"{name} (arXiv:{paper})" for name, paper in sources.items()}
    assert len(papers) == 8 + 6 + 2 * 8
    assert all(cell["mark"] == "run" and cell["run_ids"] == "" for cell in papers)
