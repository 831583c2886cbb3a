"""``python -m modules.launch.worker RESULTS_DIR ID...``: carries out planned runs, one after the other.

``ID+ID+ID`` are runs that are trained at once, as seeds stacked on one backbone.

Several workers may be given the same list: each run is claimed by whoever works on it, and what is done is not done
again. At the end come the runs that another machine held and gave up, and those for which a GPU had too little memory
left beside other runs. A run that takes several processes is started in as many, which this one watches (`ranks.py`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from modules.launch.claims import ClaimLost, alone, claim, given_up, holder
from modules.launch.failures import AGAIN, Failure
from modules.launch.peers import watching_peers
from modules.launch.ranks import RanksFailed, run_in_ranks
from modules.processes import WITH_PARENT, end_now, end_with_parent, lasting_output, leave
from modules.runs.config import RunConfig
from modules.runs.progress import Progress
from modules.runs.ranks import launched, local_ranks, rank
from modules.runs.results import ResultStore


def main(arguments: list[str]) -> int:
    """Exit code: 0, 2 after a mistake of the user's, 1 after any other failure; the other runs go on."""
    results_dir, *words = arguments
    together = {id: word.split("+") for word in words for id in word.split("+")}
    code, later = 0, []
    for word in chain(words, _given_up(results_dir, words), _alone(results_dir, words, later)):
        title = word
        try:
            title = RunConfig.read(results_dir, word.partition("+")[0]).title
            carry_out(word.split("+"), ResultStore(results_dir), together)
        except KeyboardInterrupt:
            return 130
        except RanksFailed as error:
            failure = error.failure
        except Exception as error:
            failure = Failure.of(error, title)
        else:
            continue
        if failure.memory and word not in later and _shares_its_gpu():
            print(f"{failure.line}; this run is tried again when the others have ended", flush=True)
            later.append(word)
        else:
            code = max(code, failure.say())
        _give_memory_back()
    return code


def _shares_its_gpu() -> bool:
    """Whether other runs of the command may leave memory when they end."""
    return int(os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1")) > 1 and not launched()


def _give_memory_back() -> None:
    """What a failed run had: errors hold on to it until Python collects garbage, and PyTorch keeps it."""
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _alone(results_dir: str, words: list[str], later: list[str]) -> Iterator[str]:
    """Those that are tried again: one after the other, whichever worker has them, and beside no other run."""
    if later:
        runs = ResultStore(results_dir).runs
        with alone(Path(results_dir) / "memory"):
            while any(holder(runs / id) for word in words for id in word.split("+")):
                time.sleep(2)
            yield from later


def _given_up(results_dir: str, words: list[str]) -> Iterator[str]:
    """Those of the words with runs that another machine held, and that are free now."""
    folders = {ResultStore(results_dir).runs / id: word for word in words for id in word.split("+")}
    missing = [folder for folder in folders if not folder.with_suffix(".json").is_file()]
    yield from dict.fromkeys(folders[folder] for folder in given_up(missing))


def carry_out(ids: list[str], store: ResultStore, together: dict[str, list[str]], live: bool | None = None) -> None:
    """Those of the runs that are neither done nor in another worker's hands; several of them at once.

    Args:
        together: by id, the runs that are trained at once with it.
        live: whether a line moves: see `modules.training.progress.Progress`.

    Raises:
        ClaimLost: this is the first rank of a launcher's, and others are at the run, or have just done it. The other
            ranks begin with it and cannot know: a failure lets the launcher end them.
    """
    with contextlib.ExitStack() as claims:
        configs = [RunConfig.read(store.root, id) for id in ids]
        held = {config.id: claims.enter_context(claim(config.folder)) for config in configs}
        mine = [config for config in configs if held[config.id] and (rank() or not store.path(config.id).is_file())]
        if launched() and not mine:
            whose = "done, by another command" if held[ids[0]] else f"with {holder(configs[0].folder) or 'others'}"
            raise ClaimLost(f"is {whose}, and all ranks of this one end; {AGAIN}")
        for config in mine:
            if config.init_from:
                complete(config.init_from["id"], store, together, live)
        if len(mine) == 1 and local_ranks(mine[0].trainer) > 1 and not launched():
            Progress("starting its processes").write(mine[0].folder)
            run_in_ranks(mine[0])
        elif mine:
            Progress("loading model and data").write(mine[0].folder)
            from modules.training.run import run_seeds  # takes seconds

            with watching_peers(mine[0]):
                run_seeds(mine, live=live, before_writing=lambda: [held[config.id].check() for config in mine])


def complete(id: str, store: ResultStore, together: dict[str, list[str]], live: bool | None = None) -> None:
    """A run that somebody needs now: done by this process if nobody else is at it, else waited for."""
    announced = None
    while not store.path(id).is_file():
        carry_out(together.get(id, [id]), store, together, live)
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
