"""What a dashboard says of a run beside its figures: its columns, its name and its group."""

from __future__ import annotations

from typing import Any

from modules.runs.config import NEUTRAL, RunConfig
from modules.runs.labels import in_words, label_words, short_name
from modules.runs.results import RunResult, run_id
from modules.runs.trainer_options import truncates
from variants.registry import resolve

LONGEST_GROUP, LONGEST_TAG = 128, 64
"""Characters that W&B takes."""


def row(config: RunConfig) -> str:
    """The row of the table that the run belongs to: variant, sizes, what was set by hand, protocol, backbone, data."""
    wanted = {(config.budget or {}).get("wanted")}
    label = in_words(label_words([config.options], config.overrides, wanted))
    place = (config.protocol, short_name(config.backbone["name"]), config.data["name"])
    return " | ".join((f"{config.name} {label}".strip(), *place))


def group(config: RunConfig) -> str:
    """The cell of the table that the run belongs to: its task and :func:`row`, and six hex digits over all settings but
    the seed. Runs of a group are seeds of one configuration, so that their mean and spread say something."""
    settings = {k: getattr(config, k) for k in ("benchmark", "task", "variant", "options", "protocol", "code")}
    settings |= {"backbone": config.backbone["hash"], "data": config.data["hash"], "training": config.training}
    settings |= {"trainer": {k: v for k, v in config.trainer.items() if k not in NEUTRAL}}
    settings |= {"start": (config.init_from or {}).get("task")}
    digits = run_id(settings)[:6]
    return f"{config.task} {row(config)}"[: LONGEST_GROUP - 9].rstrip(" |") + f" | {digits}"


def name(config: RunConfig) -> str:
    """Such as `rte-lora-s0-a1b2c3`."""
    return f"{config.task}-{config.name}-s{config.seed}-{config.id[:6]}"


def tags(config: RunConfig) -> list[str]:
    """Protocol, backbone and the person's own; `truncated` where the run does not see all batches."""
    own = [config.protocol, short_name(config.backbone["name"]), *config.tags]
    cut = ["truncated"] if truncates(config.trainer) else []
    return [tag[:LONGEST_TAG] for tag in dict.fromkeys([*own, *cut]) if tag]


def columns(config: RunConfig, parameters: dict[str, int], device: str, stacked: int = 1) -> dict[str, Any]:
    """The columns of a run, flat, without empty ones.

    Args:
        parameters: counted: adapter, head and total.
        device: what the run computes on.
        stacked: how many runs are trained at once.
    """
    cls = resolve(config.variant)
    found = {"run": config.id, "row": row(config), "variant": config.name}
    found |= {key: getattr(config, key) for key in ("benchmark", "task", "protocol", "seed", "command")}
    found |= {"size": config.options.get(cls.size) if cls.size else None}
    for key in ("backbone", "data"):
        found |= {f"{key}.{k}": v for k, v in getattr(config, key).items()}
        found[f"{key}.hash"] = getattr(config, key)["hash"][:12]
    found |= config.options | config.training
    found |= {f"overrides.{k}": v for k, v in config.overrides.items()}
    found |= {f"trainer.{k}": v for k, v in config.trainer.items()}
    found |= {f"budget.{k}": v for k, v in (config.budget or {}).items()}
    found |= {f"parameters.{k}": v for k, v in parameters.items()}
    found |= {"init_from": (config.init_from or {}).get("id"), "code": config.code, "device": device}
    found |= {"compile": config.compile, "reference": config.reference, "results_dir": config.results_dir}
    found |= {"stacked": stacked if stacked > 1 else None, "truncated": truncates(config.trainer) or None}
    return {k: v for k, v in found.items() if v not in (None, "", [], {})}


def adapter(config: RunConfig, result: RunResult, which: str) -> dict[str, Any]:
    """What an adapter belongs to: its base by name and hash, its run and its score.

    Args:
        which: best or last.
    """
    figures = getattr(result, which)
    facts = {"base": config.backbone["name"], "base_hash": config.backbone["hash"]}
    facts |= {"benchmark": config.benchmark, "task": config.task, "variant": config.name, "run": config.id}
    facts |= {"options": config.options, "epoch": figures["epoch"], "parameters": dict(result.parameters)}
    return facts | ({} if result.fault else {result.metric: figures[result.metric]})
