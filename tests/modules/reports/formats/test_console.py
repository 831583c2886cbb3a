"""The table on the console fits a narrow window."""

import re

from modules.benchmarks.glue import GLUE
from modules.reports.formats.console import to_text
from modules.reports.tables.build import build
from tests.support.results import run
from tests.support.tables import EIGHT, PAPERS


def test_the_console_table_fits_80_columns():
    text = to_text(build([run(task, 0.8, seed) for task in EIGHT for seed in (0, 1)], GLUE, PAPERS))
    figures = [line for line in text.splitlines() if re.match(r"\s*\d\d\.\d", line)]
    assert len(figures) == 2 and max(map(len, figures)) <= 80
    assert figures[0].split() == ["80.0±0.0"] * 8 + ["80.0"]
    assert "published: LoRA on roberta-base (LoRA, Table 2), 0.3M" in text
