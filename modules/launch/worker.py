"""``python -m modules.launch.worker RESULTS_DIR ID...``: carries out planned runs, one after the other.

``ID+ID+ID`` are runs that are trained at once, as seeds stacked on one backbone.

Several workers may be given the same list: each run is locked by whoever works on it, and what is done is not done
again. A run that takes several processes is started in as many, which this one watches (`ranks.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from modules.launch.claims import claim, holder
from modules.launch.failures import Failure
from modules.launch.peers import watching_peers
from modules.launch.ranks import RanksFailed, run_in_ranks
from modules.processes import WITH_PARENT, end_now, end_with_parent, lasting_output, leave
from modules.runs.config import RunConfig
from modules.runs.ranks import launched, local_ranks
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
        except RanksFailed as error:
            code = max(code, error.failure.say())
        except Exception as error:
            code = max(code, Failure.of(error, title).say())
    return code


def _carry_out(ids: list[str], store: ResultStore, together: dict[str, list[str]]) -> None:
    """Those of the runs that are neither done nor in another worker's hands; several of them at once."""
    with contextlib.ExitStack() as locks:
        configs = [RunConfig.read(store.root, id) for id in ids]
        mine = [c for c in configs if locks.enter_context(claim(c.folder)) and not store.path(c.id).is_file()]
        for config in mine:
            if config.init_from:
                _complete(config.init_from["id"], store, together)
        if len(mine) == 1 and local_ranks(mine[0].trainer) > 1 and not launched():
            run_in_ranks(mine[0])
        elif mine:
            from modules.training.run import run_seeds  # takes seconds

            with watching_peers(mine[0]):
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
    end_with_parent(int(os.environ.get(WITH_PARENT, "0")))
    with lasting_output():
        if (code := main(sys.argv[1:])) and launched():
            end_now(code)
        sys.exit(leave(code))
