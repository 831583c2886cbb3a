"""Whether the Hub answers, what of it is in the local caches, and how to do without it."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

from modules.processes import abandon
from variants.errors import UserError

Answer = TypeVar("Answer")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
SILENCE, SILENCE_OF_A_DOWNLOAD = 30.0, 120.0
"""Seconds in which something must arrive; the libraries may hold a part of a download back before they write it."""
WORD, PAUSE = 10.0, 0.25
"""Seconds between two words about the waiting, and between two looks at what has arrived."""
BEGUN = 2**20
"""Bytes from which on a download has begun."""


def hub_endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, by default https://huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def hub_reachable(timeout: float = 4.0) -> bool:
    """Whether the Hub answers; known after at most `timeout` seconds, whatever DNS, routers or servers do.

    False at once under HF_HUB_OFFLINE=1. The answer is remembered for the life of the process.
    """
    return not _offline() and answers(hub_endpoint(), timeout)


def _offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


@functools.lru_cache
def answers(endpoint: str, timeout: float) -> bool:
    """Whether a server answers within `timeout` seconds, if only to say no; remembered for the life of the process."""
    found: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout).close()
            found.append(True)
        except urllib.error.HTTPError as error:  # it answers, if only to say no
            found.append(error.code < 500)
        except (OSError, ValueError):
            found.append(False)

    # A name look-up has no time limit of its own: ask in a thread and stop waiting for it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(found and found[0])


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
    folder = _datasets_cache() / (repo or "").replace("/", "___")
    return all(any(folder.glob(f"{name}/*/*/dataset_info.json")) for name in configurations)


def _datasets_cache() -> Path:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")).expanduser()


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


def from_hub(what: str, repo: str, cached: bool, action: Callable[[], Answer]) -> Answer:
    """What an action that asks the Hub gives; it waits no longer than the Hub lets one hope.

    The Hub's libraries try again for minutes without a word. So the action has a thread to itself: where nothing of the
    repository arrives on this disk, that is said, and after ``SILENCE`` the cache is used or the action given up.

    Args:
        what: such as ``model 'roberta-base'``, for messages.
        repo: the repository whose files the action brings.
        cached: whether all that it needs is in the local cache.

    Raises:
        UserError: the Hub cannot be reached, or falls silent, and the cache does not have it all. Whatever the action
            raises.
    """
    require_hub(what, cached)
    if not hub_reachable():
        return action()
    if (outcome := _watched(what, repo, action)) is not None:
        return outcome.result()
    silence = f"the Hub ({hub_endpoint()}) has fallen silent over {what}"
    if not cached:
        raise UserError(f"{silence}; try again later, or use --preset embedded or local folders")
    print(f"{silence}: the copy in the local cache is used", file=sys.stderr, flush=True)
    go_offline()
    return action()


def _watched(what: str, repo: str, action: Callable[[], Answer]) -> Future | None:
    """What has become of an action, or None where the Hub has fallen silent over it."""
    outcome: Future = Future()

    def act() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    try:
        silent = _silence(what, repo, outcome)
    except BaseException:  # stopped by hand
        abandon(thread)
        raise
    if silent:
        abandon(thread)
        return None
    return outcome


def _silence(what: str, repo: str, outcome: Future) -> bool:
    """Wait for an outcome; whether the Hub has fallen silent over it."""
    first = last = _arrived(repo)
    since, mentioned = time.monotonic(), 0.0  # mentioned: seconds of silence at the last word about it
    while not outcome.done():
        wait([outcome], PAUSE)
        if (now := _arrived(repo)) != last:
            last, since, mentioned = now, time.monotonic(), 0.0
        silent = time.monotonic() - since
        if silent > (SILENCE if last - first < BEGUN else SILENCE_OF_A_DOWNLOAD):
            return True
        if silent - mentioned >= WORD:
            mentioned = silent
            waiting = f"waiting for the Hub ({hub_endpoint()}): nothing of {what} has come for {silent:.0f} s"
            print(waiting, file=sys.stderr, flush=True)
    return False


def _arrived(repo: str) -> int:
    """Bytes of a repository in the Hub's caches, half-written files included."""
    from huggingface_hub import constants

    places = [Path(constants.HF_HUB_CACHE, f"{kind}s--{repo.replace('/', '--')}") for kind in ("model", "dataset")]
    places += [_datasets_cache() / repo.replace("/", "___"), Path(constants.HF_HOME, "xet")]
    total = 0
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
    return total


def go_offline() -> None:
    """Makes the Hub's libraries use their caches alone, here and in child processes: no call waits for retries."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets.config
    import huggingface_hub.constants

    # Both read the variable when first imported, which may have been earlier.
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
