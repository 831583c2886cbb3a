"""Whether the Hub answers, what of it is in the local caches, and how to do without it."""

from __future__ import annotations

import functools
import os
import threading
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from variants.errors import UserError

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


def hub_endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, by default https://huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def hub_reachable(timeout: float = 4.0) -> bool:
    """Whether the Hub answers; known after at most `timeout` seconds, whatever DNS, routers or servers do.

    False at once under HF_HUB_OFFLINE=1. The answer is remembered for the life of the process.
    """
    return not _offline() and _probe(hub_endpoint(), timeout)


def _offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


@functools.lru_cache
def _probe(endpoint: str, timeout: float) -> bool:
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout).close()
            answers.append(True)
        except urllib.error.HTTPError as error:  # it answers, if only to say no
            answers.append(error.code < 500)
        except (OSError, ValueError):
            answers.append(False)

    # A name look-up has no time limit of its own: ask in a thread and stop waiting for it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answers and answers[0])


def hub_cached(
    model: str | None = None,
    repo: str | None = None,
    configurations: Iterable[str] = (),
) -> bool:
    """Whether the model's files and a data set's prepared configurations are all in the local Hub caches."""
    if model is not None:
        from huggingface_hub import try_to_load_from_cache

        files = [try_to_load_from_cache(model, name) for name in ("config.json", *WEIGHT_FILES)]
        if not isinstance(files[0], str) or not any(isinstance(path, str) for path in files[1:]):
            return False
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")).expanduser()
    folder = cache / (repo or "").replace("/", "___")
    return all(any(folder.glob(f"{name}/*/*/dataset_info.json")) for name in configurations)


def require_hub(what: str, cached: bool) -> None:
    """Settles whether to ask the Hub for `what`: if it does not answer, use the cache alone, or raise UserError."""
    if hub_reachable():
        return
    if not cached:
        why = "is switched off by HF_HUB_OFFLINE" if _offline() else f"({hub_endpoint()}) cannot be reached"
        raise UserError(
            f"the Hub {why} and {what} is not in the local cache; connect, or use --preset embedded or local folders"
        )
    go_offline()


def go_offline() -> None:
    """Makes the Hub's libraries use their caches alone, here and in child processes: no call waits for retries."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets.config
    import huggingface_hub.constants

    # Both read the variable when first imported, which may have been earlier.
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
