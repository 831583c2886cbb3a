"""``python -m modules.launch.rank RESULTS_DIR ID REPORT``: one of the ranks of a run, which a worker has started.

It tells the worker through the pipe ``REPORT`` why it failed, and prints nothing of it: the worker knows which rank was
the first.
"""

from __future__ import annotations

import os
import sys

from modules.launch.claims import check_claim
from modules.launch.failures import Failure
from modules.launch.peers import watching_peers
from modules.processes import WITH_PARENT, end_now, end_with_parent, lasting_output, leave
from modules.runs.config import RunConfig


def main(results_dir: str, id: str, report: str) -> int:
    """Exit code 0; a process that fails ends in here, with its exit code."""
    os.set_inheritable(int(report), False)
    title = id
    try:
        config = RunConfig.read(results_dir, id)
        title = config.title
        from modules.training.run import run_seeds  # takes seconds

        with watching_peers(config):
            run_seeds([config], before_writing=lambda: check_claim(config.folder, int(os.environ[WITH_PARENT])))
    except Exception as error:
        failure = Failure.of(error, title)
        os.write(int(report), failure.written())
        end_now(failure.code)
    return 0


if __name__ == "__main__":
    end_with_parent(int(os.environ[WITH_PARENT]))
    with lasting_output():
        sys.exit(leave(main(*sys.argv[1:])))
