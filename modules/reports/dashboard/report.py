"""A W&B report: what was run, the tables and differences from result files, and panels of the runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.reports.dashboard.panels import SECTIONS

EXPLAINED = (
    "A row of the tables is one configuration; its figures are over seeds. Panels group runs by the same rows: a line "
    "is the mean over the seeds, its band their standard deviation. `score` is the main metric of each task, as a "
    "fraction. Runs that diverged or were cut short carry a tag."
)


def report(entity: str, project: str, name: str, tables: Mapping[str, str]) -> Any:
    """The report. Needs a login, since panels refer to the project by W&B's own id.

    Args:
        tables: Markdown of result files by its heading: the table of each benchmark, and the differences.
    """
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents(), wr.P(EXPLAINED)]
    for heading, text in tables.items():
        blocks += [wr.H1(heading), wr.MarkdownBlock(text)]
    runs = {"entity": entity, "project": project, "name": "runs", "filters": "JobType = 'train'"}
    for heading, panels in SECTIONS:
        blocks += [wr.H1(heading), wr.PanelGrid(runsets=[wr.Runset(**runs)], panels=panels())]
    description = "Comparison of LoRA variants, written by lora-variants dashboard."
    return wr.Report(entity=entity, project=project, title=name, description=description, blocks=blocks, width="fluid")
