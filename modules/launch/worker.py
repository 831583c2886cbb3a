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

from modules.command_line import is_user_error, one_line
from modules.launch.claims import claim, holder
from modules.processes import WITH_PARENT, end_with_parent, lasting_output, leave
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore


def main(arguments: list[str]) -> int:
    """Exit code: 0, 2 after a mistake of the user's, 1 after any other failure; the other runs go on."""
    results_dir, *words = arguments
    together = {id: word.split("+") for word in words for id in word.split("+")}
    code = 0
    for word in words:
        title = word
        try:
            title = RunConfig.read(results_dir, word.partition("+")[0]).title
            _carry_out(word.split("+"), ResultStore(results_dir), together)
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            if is_user_error(error):
                print(f"error: {title}: {one_line(error)}", file=sys.stderr, flush=True)
                code = 2
            else:
                traceback.print_exc()
                print(f"error: {title} failed; the other runs go on", file=sys.stderr, flush=True)
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


def _complete(id: str, store: ResultStore, together: dict[str, list[str]]) -> None:
    """The run that another starts from: done by this worker if nobody else is at it, else waited for."""
    announced = None
    while not store.path(id).is_file():
        _carry_out(together.get(id, [id]), store, together)
        if not store.path(id).is_file():
            config = RunConfig.read(store.root, id)
            other = holder(config.folder)
            if other and other != announced:
                print(f"waiting for {config.title}, which {other} is training", flush=True)
            announced = other
            time.sleep(2)


if __name__ == "__main__":
    end_with_parent(None if "LOCAL_RANK" in os.environ else int(os.environ.get(WITH_PARENT, "0")))
    with lasting_output():
        sys.exit(leave(main(sys.argv[1:])))
