"""Rows of a paper's table as the runs that fill them."""

from modules.benchmarks.glue import GLUE
from modules.experiments.published_runs import table_wishes
from modules.experiments.wishes import Wishes
from paper_repro import PUBLISHED


def wishes(table="lora-2", words=None, **changes):
    return table_wishes(PUBLISHED, table, words, Wishes(**{"benchmark": GLUE} | changes))
