"""A small Hub on 127.0.0.1: the endpoints that transformers, datasets and huggingface_hub really call.

`HubServer` serves repositories from memory; `tiny_roberta()` and `tiny_glue()` make their content. Code under test runs
in a subprocess with HF_ENDPOINT set to `server.url`, since the Hub's libraries read it at import.
"""

import hashlib
import io
import json
import re
import tempfile
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from modules.benchmarks.glue.tasks import TASKS, GlueTask

Files = dict[str, bytes]


class HubServer:
    """Serves `repos`, {("models" | "datasets", "owner/name"): {path: content}}, until the `with` block ends.

    `requests` lists what was asked ("GET /api/..."). With `mute` the server accepts connections and never answers,
    with `silent` it answers whoever asks whether it is there, and nothing else. `revision` names the branch that data
    sets are on.
    """

    def __init__(
        self, repos: dict[tuple[str, str], Files], mute: bool = False, revision: str = "main", silent: bool = False
    ):
        self.repos, self.mute, self.requests, self.revision, self.silent = repos, mute, [], revision, silent
        self._over = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: tuple[str, str]) -> str:
        """The repository's revision: changes with its content."""
        parts = [name.encode() + content for name, content in sorted(self.repos[repo].items())]
        return hashlib.sha1(b"".join(parts)).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.hub.mute or (self.hub.silent and self.path != "/"):
            self.hub._over.wait()
        url = urlsplit(self.path)
        path = unquote(url.path).replace(self.hub.revision, "main")
        if path == "/":
            return self._send(b"a small hub")
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(tree|revision|paths-info)/(.*))?", path):
            kind, name, action, rest = match.groups()
            if (files := self._files(kind, name, (rest or "main").split("/")[0])) is not None:
                self._api(kind, name, files, action, rest or "", parse_qs(url.query))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            data, name, revision, file = match.groups()
            kind = "datasets" if data else "models"
            if (files := self._files(kind, name, revision)) is not None:
                commit = {"X-Repo-Commit": self.hub.commit((kind, name))}
                if file not in files:
                    return self._send(b"", 404, {"X-Error-Code": "EntryNotFound", **commit})
                self._send(files[file], 200, {"ETag": f'"{_oid(files[file])}"', "Accept-Ranges": "bytes", **commit})
        else:
            self._send(b"", 404)

    do_HEAD = do_GET
    do_POST = do_GET

    def _files(self, kind: str, name: str, revision: str) -> Files | None:
        files = self.hub.repos.get((kind, name))
        if files is None:
            self._send(b"", 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", self.hub.commit((kind, name))):
            files = self._send(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        return files

    def _api(self, kind: str, name: str, files: Files, action: str | None, rest: str, query: dict) -> None:
        if action == "tree":
            folder = rest.partition("/")[2]
            return self._json(_tree(files, folder, query.get("recursive", [""])[0].lower() in ("true", "1")))
        if action == "paths-info":
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            everything = [entry for path in ("", *_folders(files)) for entry in _tree(files, path, False)]
            return self._json([entry for entry in everything if entry["path"] in paths])
        siblings = [{"rfilename": path} for path in sorted(files)]
        sha = self.hub.commit((kind, name))
        self._json({"_id": sha[:24], "id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span and status == 200:
            whole, start = len(body), int(span[1])
            body, status = body[start : int(span[2]) + 1 if span[2] else None], 206
            headers = {**(headers or {}), "Content-Range": f"bytes {start}-{start + len(body) - 1}/{whole}"}
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _folders(files: Files) -> set[str]:
    return {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}


def _tree(files: Files, folder: str, recursive: bool) -> list[dict]:
    def inside(path: str) -> bool:
        parent = str(Path(path).parent)
        parent = "" if parent == "." else parent
        return parent == folder or (recursive and (not folder or parent.startswith(folder + "/")))

    folders = [{"type": "directory", "path": path, "oid": _oid(path.encode()), "size": 0} for path in _folders(files)]
    entries = [
        {"type": "file", "path": path, "oid": _oid(content), "size": len(content)} for path, content in files.items()
    ]
    return [entry for entry in folders + entries if inside(entry["path"])]


def tiny_tokenizer(texts: list[str]):
    """A byte-level BPE tokenizer in RoBERTa's format, trained on `texts`."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=300, special_tokens=special, show_progress=False)
    bpe._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_roberta(seed: int = 0) -> Files:
    """The files of a RoBERTa of 2 layers and width 16, saved as a masked language model, with its tokenizer."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer([" ".join(texts) for task in TASKS.values() for texts in _rows(task, 8)[0]])
        config = RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=66,
            type_vocab_size=1,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
        RobertaForMaskedLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _rows(task: GlueTask, count: int) -> tuple[list[tuple[str, ...]], list[int] | list[float]]:
    texts = [tuple(f"{task.title} {field} number {i}" for field in task.fields) for i in range(count)]
    labels = [i / 2 for i in range(count)] if task.kind == "score" else [i % task.num_labels for i in range(count)]
    return texts, labels


def tiny_glue(tasks: Iterable[GlueTask] = TASKS.values(), train: int = 10, dev: int = 5) -> Files:
    """A data set laid out as nyu-mll/glue: `<task>/<split>-00000-of-00001.parquet` and a card that names them."""
    import datasets

    files, configs = {}, []
    for task in tasks:
        data_files = []
        for split, count in {"train": train, **dict.fromkeys(task.eval_splits, dev)}.items():
            texts, labels = _rows(task, count)
            label = datasets.Value("float32") if task.kind == "score" else datasets.ClassLabel(names=list(task.labels))
            features = {**dict.fromkeys(task.fields, datasets.Value("string")), "label": label}
            columns = dict(zip(task.fields, map(list, zip(*texts, strict=True)), strict=True))
            rows = datasets.Dataset.from_dict(
                {**columns, "label": labels, "idx": list(range(count))},
                features=datasets.Features({**features, "idx": datasets.Value("int32")}),
            )
            rows.to_parquet(buffer := io.BytesIO())
            files[f"{task.name}/{split}-00000-of-00001.parquet"] = buffer.getvalue()
            data_files.append({"split": split, "path": f"{task.name}/{split}-*"})
        configs.append({"config_name": task.name, "data_files": data_files})
    files["README.md"] = f"---\nconfigs: {json.dumps(configs)}\n---\n# GLUE, tiny\n".encode()
    return files
