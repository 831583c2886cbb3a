"""A small W&B server on 127.0.0.1 that speaks as much of the protocol as the real client needs, and keeps what it got.

`WandbServer` answers GraphQL by the name of the operation, takes the file stream apart into rows of history, and stores
uploads. Code under test runs the real client with `server.environment`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modules.training.loggers.wandb_mode import SETTLED

KEY = "0123456789" * 4
"""A key of the form that the client accepts."""


@dataclass
class SentRun:
    """What the client has sent of one run.

    Attributes:
        settings: the fields of the last upsert: displayName, groupName, jobType, tags, notes, sweep, ...
        rows: of history, each with `_step`.
        exit_code: None until the run has ended.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def having(self, key: str) -> list[dict[str, Any]]:
        """The rows with a figure."""
        return [row for row in self.rows if key in row]

    @property
    def defined(self) -> dict[str, tuple[str | None, str | None, bool]]:
        """(axis, which value the summary has, whether it is hidden) of metrics, by name or glob."""
        found = {}
        listed = self.config.get("_wandb", {}).get("m", [])  # of messages: fields by their numbers
        for metric in listed:
            axis = metric.get("5")
            axis = listed[axis - 1].get("1") if isinstance(axis, int) else metric.get("4")
            best = {1: "min", 2: "max"}.get((metric.get("7") or [None])[0])
            found[metric.get("1") or metric.get("2")] = (axis, best, 2 in (metric.get("6") or []))
        return found


class WandbServer:
    """Serves until the `with` block ends.

    Attributes:
        runs: what came, by the run's id.
        artifacts: name, type, metadata and aliases of each.
        alerts: title, text and severity of each.
        views: workspaces and reports that were saved: what the client sent of each.
        operations: names of all GraphQL operations.
        mute: accept connections and never answer the API; `down` answers 503.
    """

    def __init__(self, mute: bool = False) -> None:
        self.runs: dict[str, SentRun] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.operations: list[str] = []
        self.views: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.mute = mute
        self.lock, self.over = threading.Lock(), threading.Event()
        handler = type("Handler", (_Handler,), {"wandb": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that ends closes its connections
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the client speaks to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def run(self, id: str) -> SentRun:
        """The run of an id, a new one where it is the first word of it."""
        return self.runs.setdefault(id, SentRun())

    def named(self, word: str) -> list[SentRun]:
        """The runs whose names hold a word."""
        return [run for run in self.runs.values() if word in run.settings.get("displayName", "")]

    # ---- GraphQL ---------------------------------------------------------------------------------------------------

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one operation."""
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)
        self.operations.append(name[1] if name else "")
        given = variables.get("input", variables)
        viewer = {"id": "1", "entity": "me", "username": "me", "name": "me", "email": "me@example.org", "flags": "{}"}
        viewer |= {"admin": False, "teams": {"edges": []}, "apiKeys": {"edges": []}}
        versions = {"max_cli_version": "99.0.0"}
        local = {"outOfDate": False, "latestVersionString": "1", "versionOnThisInstanceString": "1"}
        server = {"cliVersionInfo": versions, "latestLocalVersionInfo": local, "features": []}
        server |= {"exposesExplicitODP": False}
        data: dict[str, Any] = {"viewer": viewer, "serverInfo": server, "model": None, "project": None}
        data["entity"] = {"id": "1", "name": "me", "organization": None}
        if "upsertBucket" in query:
            data = self._upsert(variables)
        elif "createRunFiles" in query:
            places = [{"name": f, "uploadUrl": f"{self.url}/storage/{f}"} for f in variables.get("files", [])]
            data = {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": places}}
        elif "upsertView" in query:
            self.views.append(variables)
            view = {"id": f"view-{len(self.views)}", "name": variables["name"], "type": variables["type"]}
            view |= {"displayName": variables["displayName"], "description": "", "spec": variables["spec"]}
            view |= {"user": None, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
            view["project"] = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
            data = {"upsertView": {"view": view, "inserted": True}}
        elif "query GetProjects" in query:
            node = {"__typename": "Project", "id": "1", "name": "p", "entityName": "me", "isBenchmark": False}
            node |= {"createdAt": "2026-01-01T00:00:00Z", "user": None}
            data = {"models": {"edges": [{"node": node}], "pageInfo": {"hasNextPage": False, "endCursor": None}}}
        elif "internalId" in query:
            data["project"] = {"id": "1", "internalId": "1", "name": "p", "entityName": "me"}
        elif "notifyScriptableRunAlert" in query:
            self.alerts.append(variables)
            data = {"notifyScriptableRunAlert": {"success": True}}
        elif "createArtifactManifest" in query or "updateArtifactManifest" in query:
            data = self._manifest(query)
        elif "createArtifactFiles" in query:
            files = [self._file(spec) for spec in given["artifactFiles"]]
            data = {"createArtifactFiles": {"files": {"edges": files}}}
        elif "createArtifact" in query and "createArtifactType" not in query:
            self.artifacts.append(variables.get("input", variables))
            state = {
                "id": f"artifact-{len(self.artifacts)}",
                "digest": self.artifacts[-1].get("digest"),
                "state": "PENDING",
            }
            data = {"createArtifact": {"artifact": state | {"artifactSequence": {"id": "1", "latestArtifact": None}}}}
        elif "commitArtifact" in query:
            data = {
                "commitArtifact": {
                    "artifact": {"id": variables.get("input", variables).get("artifactID"), "digest": "x"}
                }
            }
        elif "__type" in query or "__schema" in query:
            data = {key: None for key in re.findall(r"(\w+)\s*:\s*__type", query)} or {"__type": None}
        return data

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        id = variables.get("name") or "unnamed"
        run = self.run(id)
        run.settings |= {key: value for key, value in variables.items() if value is not None and key != "config"}
        if variables.get("config"):
            run.config |= {k: v.get("value", v) for k, v in json.loads(variables["config"]).items()}
        if variables.get("summaryMetrics"):
            run.summary |= json.loads(variables["summaryMetrics"])
        project = {"id": "1", "name": variables.get("project") or "p", "entity": {"id": "1", "name": "me"}}
        bucket = {"id": "1", "name": id, "displayName": run.settings.get("displayName", id), "description": None}
        bucket |= {"config": "{}", "sweepName": variables.get("sweep"), "historyLineCount": 0, "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _manifest(self, query: str) -> dict[str, Any]:
        name = "createArtifactManifest" if "createArtifactManifest" in query else "updateArtifactManifest"
        file = {"id": "1", "name": "manifest.json", "displayName": "m", "uploadHeaders": []}
        file |= {"uploadUrl": f"{self.url}/storage/manifest", "directUrl": ""}
        return {name: {"artifactManifest": {"id": "1", "file": file}}}

    def _file(self, spec: dict[str, Any]) -> dict[str, Any]:
        node = {"id": "1", "name": spec["name"], "displayName": spec["name"], "uploadHeaders": []}
        node |= {"uploadUrl": f"{self.url}/storage/{spec['name']}", "artifact": {"id": spec.get("artifactID")}}
        return {"node": node | {"uploadMultipartUrls": None, "storagePath": f"x/{spec['name']}"}}

    # ---- the file stream -------------------------------------------------------------------------------------------

    def stream(self, id: str, body: dict[str, Any]) -> None:
        """One message of a run's stream: rows of history, the summary, the end."""
        run = self.run(id)
        for name, part in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                rows = [json.loads(line) for line in part["content"]]
                run.rows[part["offset"] : part["offset"] + len(rows)] = rows
            elif name == "wandb-summary.json":
                run.summary |= json.loads(part["content"][-1])
        if body.get("complete"):
            run.exit_code = body.get("exitcode", 0)


class _Handler(BaseHTTPRequestHandler):
    wandb: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def _send(self, content: Any, code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def do_HEAD(self) -> None:
        self._send({})

    def do_GET(self) -> None:
        self._send({})

    def do_PUT(self) -> None:
        self.wandb.uploads[self.path.removeprefix("/storage/")] = self._body()
        self._send({})

    def do_POST(self) -> None:
        content = self._body()
        if self.wandb.mute:
            self.wandb.over.wait(60)
            return
        with self.wandb.lock:
            if self.path.endswith("/graphql"):
                asked = json.loads(content)
                return self._send({"data": self.wandb.answer(asked.get("query", ""), asked.get("variables") or {})})
            if place := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                self.wandb.stream(place[1], json.loads(content))
        self._send({"limits": {}})


@contextlib.contextmanager
def client_of(environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    """The client in this process speaks as the variables say, and leaves its files in a folder."""
    import wandb

    own = {"WANDB_DIR": str(folder), "HOME": str(folder), "WANDB_CONFIG_DIR": str(folder), **environment}
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("WANDB_")] + [SETTLED]:
            patched.delenv(name, raising=False)
        for name, value in own.items():
            patched.setenv(name, value)
        wandb.teardown()  # it has read the variables before
        try:
            yield
        finally:
            wandb.teardown()
            os.environ.pop(SETTLED, None)
