"""Whether W&B records online, offline or not at all: settled once for a command and all its workers."""

from __future__ import annotations

import contextlib
import netrc
import os
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

from modules.hub import answers
from variants.errors import UserError

PATIENCE = 4.0
"""Seconds in which the server must say that it is there, and after them as many again for a run to begin there."""
SETTLED = "LORA_VARIANTS_WANDB_MODE"
"""Variable that tells workers of this machine what has been settled: machine, wish and mode."""


def client_settings() -> Any:
    """What W&B's client is set to, by variables and its files. Raises UserError where it refuses one of them."""
    import wandb

    try:
        return wandb.setup().settings
    except ValueError as error:  # pydantic's, which names the setting on a line of its own
        said = ": ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"W&B is set wrongly (WANDB_... variables, or its settings file): {said}") from None


def settled(wish: str) -> str:
    """online, offline or off, for a wish of `modules.runs.tracking.MODES`.

    Auto is what WANDB_MODE or ``wandb online|offline|disabled`` say, else online for somebody who is logged in. Online
    becomes offline where the server does not answer within `PATIENCE`: asked once for a command and its workers on this
    machine, and said on standard error.
    """
    if wish == "off":
        return "off"
    host, machine = os.environ.get(SETTLED, ""), socket.gethostname()
    if host.startswith(f"{machine} {wish} "):
        return host.rpartition(" ")[2]
    mode = _asked(wish)
    os.environ[SETTLED] = f"{machine} {wish} {mode}"
    return mode


def give_up(wish: str, why: str) -> None:
    """From here on offline, in this process and those that it starts; says why."""
    os.environ[SETTLED] = f"{socket.gethostname()} {wish} offline"
    say(why)


def say(why: str) -> None:
    """One line on standard error about W&B that records offline instead."""
    print(f"W&B: {why}; figures are kept on this disk (`wandb sync` uploads them)", file=sys.stderr, flush=True)


def _asked(wish: str) -> str:
    os.environ.setdefault("WANDB_SILENT", "true")  # before W&B reads it: where to look is said by the command
    settings = client_settings()
    mode = wish
    if wish == "auto":
        if settings.mode == "disabled":
            return "off"
        given = "WANDB_MODE" in os.environ or settings.mode != "online"
        mode = settings.mode if given else ("online" if logged_in() else "offline")
        mode = "offline" if mode == "dryrun" else mode
    if mode == "online" and not answers(settings.base_url, PATIENCE):
        say(f"{settings.base_url} does not answer within {PATIENCE:g} s")
        return "offline"
    return mode


def logged_in() -> bool:
    """Whether there is a key for the server that W&B is set to: in its settings, or in the netrc file."""
    settings = client_settings()
    if settings.api_key or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    place = urlsplit(settings.base_url)
    hosts = [place.netloc, place.hostname or ""]
    if "WANDB_BASE_URL" not in os.environ:
        hosts.append("api.wandb.ai")  # what W&B's own server was called when the key was written
    for file in (os.environ.get("NETRC"), None):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            known = netrc.netrc(os.path.expanduser(file)) if file else netrc.netrc()
            if any(known.authenticators(host) for host in hosts if host in known.hosts):
                return True
    return False
