"""``python -m modules.launch.worker RESULTS_DIR ID...``: carries out planned runs, one after the other.

``ID+ID+ID`` are runs that are trained at once, as seeds stacked on one backbone.

Runs live in processes of their own: under DDP Lightning starts this very command again for the other ranks. Several
workers may be given the same list: each run is locked by whoever works on it, and what is done is not done again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from modules.command_line import is_user_error, one_line
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore


def main(arguments: list[str]) -> int:
    """Exit code: 0, 2 after a mistake of the user's, 1 after any other failure; the other runs go on."""
    results_dir, *words = arguments
    together = {id: word.split("+") for word in words for id in word.split("+")}
    code = 0
    for word in words:
        config = RunConfig.read(results_dir, word.partition("+")[0])
        try:
            _carry_out(word.split("+"), ResultStore(results_dir), together)
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            if is_user_error(error):
                print(f"error: {config.title}: {one_line(error)}", file=sys.stderr, flush=True)
                code = 2
            else:
                traceback.print_exc()
                print(f"error: {config.title} failed; the other runs go on", file=sys.stderr, flush=True)
                code = code or 1
    return code


def _carry_out(ids: list[str], store: ResultStore, together: dict[str, list[str]]) -> None:
    """Those of the runs that are neither done nor in another worker's hands; several of them at once."""
    with contextlib.ExitStack() as locks:
        configs = [RunConfig.read(store.root, id) for id in ids]
        mine = [c for c in configs if locks.enter_context(claim(c.folder)) and not store.path(c.id).is_file()]
        for config in mine:
            if config.init_from:
                _complete(config.init_from["id"], store, together)
        if mine:
            from modules.training.run import run_seeds  # takes seconds

            run_seeds(mine)


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Whether this process may work on the run in ``folder``: the lock ends with the process, however it ends.

    Only the first of several ranks takes it; the others belong to that one.
    """
    if _rank() != 0 or os.environ.get("LORA_VARIANTS_NO_LOCK"):
        yield True
        return
    try:
        import fcntl
    except ImportError:  # no such locks on this system: one worker at a time
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _rank() -> int:
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def _complete(id: str, store: ResultStore, together: dict[str, list[str]]) -> None:
    """The run that another starts from: done by this worker if nobody else is at it, else waited for."""
    while not store.path(id).is_file():
        _carry_out(together.get(id, [id]), store, together)
        if not store.path(id).is_file():
            time.sleep(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
