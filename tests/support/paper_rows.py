"""Rows of a paper's table as the runs that fill them."""

from modules.experiments.plan import Wishes
from modules.experiments.published_runs import table_wishes
from paper_repro import PUBLISHED


def wishes(table="lora-2", words=None, **changes):
    return table_wishes(PUBLISHED, table, words, Wishes(**changes))
