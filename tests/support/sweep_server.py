"""A W&B server of one sweep on this machine: what `wandb sweep` and `wandb agent` ask it, and the commands they get."""

from __future__ import annotations

import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

VIEWER = {
    "id": "1",
    "entity": "me",
    "username": "me",
    "email": "",
    "admin": False,
    "flags": "{}",
    "teams": {"edges": []},
}


class SweepServer:
    """``with SweepServer() as server:`` a server on a free port of the loopback.

    Attributes:
        url: of the server.
        config: the sweep's configuration, once `wandb sweep` has sent it.
        given: the arguments of the runs that agents were told to start, by run id.
        unknown: names of the operations that the server does not know.
    """

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.given: dict[str, dict[str, Any]] = {}
        self.unknown: list[str] = []
        self._points = iter(())

    def __enter__(self) -> SweepServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
                data = server.answer(body.get("query", ""), body.get("variables") or {})
                answer = json.dumps({"data": data}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation."""
        project = {"id": "1", "name": "p", "entity": {"id": "1", "name": "me"}}
        if "upsertSweep" in query:
            self.config = yaml.safe_load(variables["config"])
            names = list(self.config["parameters"])
            values = itertools.product(*(self.config["parameters"][name]["values"] for name in names))
            self._points = iter([dict(zip(names, each, strict=True)) for each in values])
            return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}
        if "sweep(sweepName" in query:
            sweep = {"id": "1", "name": "sweep1", "config": yaml.safe_dump(self.config), "runs": {"edges": []}}
            return {"project": {"sweep": sweep}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "agent1"}}}
        if "agentHeartbeat" in query:
            commands = [] if json.loads(variables.get("runState") or "{}") else [self._command()]
            return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}
        self.unknown += re.findall(r"(?:query|mutation)\s+(\w+)", query)
        return {"viewer": VIEWER, "serverInfo": None, "project": None, "entity": None, "model": None}

    def _command(self) -> dict[str, Any]:
        point = next(self._points, None)
        if point is None:
            return {"type": "exit"}
        id = f"agents-run-{len(self.given) + 1}"
        self.given[id] = point
        args = {name: {"value": value} for name, value in point.items()}
        return {"type": "run", "run_id": id, "program": self.config["program"], "args": args}
