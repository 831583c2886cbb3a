"""A saved view of a W&B project."""

from __future__ import annotations

from typing import Any

from modules.reports.dashboard.panels import SECTIONS

COLUMNS = ("config:variant", "config:task", "summary:best/score", "summary:parameters/adapter", "summary:cost/step_ms")
"""Of the list of runs, besides their names."""


def workspace(entity: str, project: str, name: str) -> Any:
    """The workspace: training runs, grouped by row of the table, best first, and sections of panels.

    Args:
        entity: user or team.
        name: of the view, as W&B lists it.
    """
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(name=title, panels=panels(), is_open=True) for title, panels in SECTIONS]
    runs = ws.RunsetSettings(
        filters=ws.And(ws.Metric("JobType") == "train"),
        groupby=[ws.Metric("Group")],
        order=[ws.Ordering(ws.Summary("best/score"), ascending=False)],
        pinned_columns=list(COLUMNS),
    )
    settings = ws.WorkspaceSettings(max_runs=100)
    return ws.Workspace(
        entity=entity, project=project, name=name, sections=sections, settings=settings, runset_settings=runs
    )
