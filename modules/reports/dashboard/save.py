"""Saving workspace and report to W&B; a second call changes those of the first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.documents import parse_json, read_text
from modules.hub import answers
from modules.paths import PUBLISHED
from modules.reports.dashboard.panels import SECTIONS
from modules.reports.dashboard.report import report
from modules.reports.dashboard.workspace import workspace
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import all_sections
from modules.reports.tables.section import Section
from modules.runs.results import ResultStore
from modules.training.loggers.wandb_mode import PATIENCE, client_settings
from variants.atomic import write_atomic
from variants.errors import UserError, one_line

PARTS = ("workspace", "report")
"""What can be saved."""
SAVED = "dashboard.json"
"""File in a results folder that remembers the addresses of what was saved from it."""

UNTITLED = {"ParameterImportancePlot": "importance of settings", "RunComparer": "settings in which runs differ"}
"""Kinds of panels that take no title."""


def tables(results_dir: Path) -> dict[str, str]:
    """Markdown of each benchmark's table by its title, from the result files; published rows of the same methods are in
    them. Empty where there is no result."""
    groups: dict[str, list[Section]] = {}
    for section in all_sections(PUBLISHED, ResultStore(results_dir).all()):
        groups.setdefault(section.benchmark.title, []).append(section)
    return {title: to_markdown(sections, sections[0].benchmark) for title, sections in groups.items()}


def listed(parts: Sequence[str], texts: dict[str, str]) -> str:
    """What would be saved, as text."""
    require_workspaces()
    lines = []
    for part in parts:
        lines.append(f"{part}:")
        lines += [f"  table: {title}" for title in texts] if part == "report" else []
        for title, panels in SECTIONS:
            lines.append(f"  {title}")
            lines += [f"    {getattr(panel, 'title', None) or UNTITLED[type(panel).__name__]}" for panel in panels()]
    return "\n".join(lines)


def save(
    parts: Sequence[str], entity: str | None, project: str, name: str, results_dir: Path, texts: dict[str, str]
) -> dict[str, str]:
    """Save some of `PARTS`; returns their addresses.

    Args:
        entity: user or team; None for the one that is logged in.
        texts: from :func:`tables`.

    Raises:
        UserError: nobody is logged in, the server cannot be reached or refuses.
    """
    require_workspaces()
    import wandb

    address = client_settings().base_url
    if not answers(address, PATIENCE):
        raise UserError(f"W&B at {address} does not answer; WANDB_BASE_URL names a server of your own")
    try:
        api = wandb.Api(timeout=20)
        entity = entity or api.default_entity
        if not entity:
            raise UserError("W&B knows no default entity of yours: give --entity")
        makers = {
            "workspace": lambda: workspace(entity, project, name),
            "report": lambda: report(entity, project, name, texts),
        }
        known = _remembered(results_dir)
        place = f"{entity}/{project}"
        for part in parts:
            made = _over(makers[part](), known.get(place, {}).get(part))
            made.save()
            known.setdefault(place, {})[part] = made.url
            write_atomic(results_dir / SAVED, json.dumps(known, indent=1) + "\n")
    except UserError:
        raise
    except Exception as error:  # whatever the client raises: it has no common class
        raise UserError(
            f"W&B did not save it: {one_line(error)}; log in with `wandb login`, or set WANDB_API_KEY and, for a "
            "server of your own, WANDB_BASE_URL"
        ) from error
    return {part: known[place][part] for part in parts}


def _over(made: Any, address: str | None) -> Any:
    """What was saved before, with the content of `made`; `made` itself where there is none, or it was deleted."""
    if not address:
        return made
    try:
        old = type(made).from_url(address)
    except Exception:
        return made
    for field in ("sections", "settings", "runset_settings", "name", "blocks", "title", "description"):
        if hasattr(made, field):
            setattr(old, field, getattr(made, field))
    return old


def _remembered(results_dir: Path) -> dict[str, dict[str, str]]:
    path = results_dir / SAVED
    if not path.is_file():
        return {}
    found = parse_json(read_text(path), str(path))
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise UserError(f"{path} is damaged: delete it, and workspace and report are saved anew")
    return found


def require_workspaces() -> None:
    """Raise UserError where wandb-workspaces is not installed."""
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise UserError("dashboard needs wandb-workspaces: pip install 'lora-variants[dashboard]'") from None
