"""A W&B server of one sweep on this machine: what `wandb sweep` and `wandb agent` ask it, and the commands they get."""

from __future__ import annotations

import itertools
import json
from typing import Any

import yaml

from tests.support.wandb_server import WandbServer


class SweepServer(WandbServer):
    """``with SweepServer() as server:`` a server on a free port of the loopback.

    Args:
        points: of the grid, that agents are given; all by default.

    Attributes:
        config: the sweep's configuration, once `wandb sweep` has sent it.
        given: the arguments of the runs that agents were told to start, by run id.
    """

    def __init__(self, points: int | None = None) -> None:
        super().__init__()
        self.points = points
        self.config: dict[str, Any] = {}
        self.given: dict[str, dict[str, Any]] = {}
        self._points = iter(())

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one operation."""
        project = {"id": "1", "name": "p", "entity": {"id": "1", "name": "me"}}
        if "upsertSweep" in query:
            self.config = yaml.safe_load(variables["config"])
            names = list(self.config["parameters"])
            values = itertools.product(*(self.config["parameters"][name]["values"] for name in names))
            grid = (dict(zip(names, each, strict=True)) for each in values)
            self._points = itertools.islice(grid, self.points)
            return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}
        if "sweep(sweepName" in query:
            sweep = {"id": "1", "name": "sweep1", "config": yaml.safe_dump(self.config), "runs": {"edges": []}}
            return {"project": {"sweep": sweep}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "agent1"}}}
        if "agentHeartbeat" in query:
            commands = [] if json.loads(variables.get("runState") or "{}") else [self._command()]
            return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}
        return super().answer(query, variables)

    def _command(self) -> dict[str, Any]:
        point = next(self._points, None)
        if point is None:
            return {"type": "exit"}
        id = f"agents-run-{len(self.given) + 1}"
        self.given[id] = point
        args = {name: {"value": value} for name, value in point.items()}
        return {"type": "run", "run_id": id, "program": self.config["program"], "args": args}
