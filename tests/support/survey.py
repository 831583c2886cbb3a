"""What readers say to damaged files: many mutations of one kind of file are read, and what became of them is counted.

A reader may take a file or refuse it by one line; it may neither fail in another way, nor hang, nor use up the memory,
nor run code from the file.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from variants.errors import LONGEST, UserError, one_line

DEFAULT = 30
"""Mutations of each kind, unless the environment's MUTATIONS gives another number."""
SECONDS, BYTES = 10, 2 * 2**30
"""Of one reading; more is a hang, or too much memory."""
EVIL = "evil.py"
"""A file that `survey` lays where readers work: it leaves a file ``code_ran`` when it is run."""


def number() -> int:
    """How many mutations of each kind to try."""
    return int(os.environ.get("MUTATIONS", DEFAULT))


@dataclass
class Survey:
    """What became of the mutations of one kind of file.

    Attributes:
        counts: "accepted", "one line", "traceback", "hang" and "memory".
        faults: number of the mutation, kind and last lines, for each that was neither accepted nor refused by one line.
        code_ran: whether a reader ran code.
    """

    counts: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    code_ran: bool = False

    def settle(self) -> None:
        """Every mutation was accepted or refused by one line, and no code ran."""
        assert not self.code_ran, "code of a file was run"
        assert not self.faults, f"{len(self.faults)} of {self.counts}:\n" + "\n\n".join(self.faults[:8])
        assert self.counts["one line"], f"no mutation was refused: {self.counts}"


def survey(
    write: Callable[[random.Random], Any], read: Callable[[], Any], folder: Path, count: int | None = None
) -> Survey:
    """Write and read mutations of a file, in a process of its own, with its memory and time bounded.

    Args:
        write: leaves a mutation; equal draws leave equal files.
        read: reads it, as the commands do; its working directory is `folder`.
        folder: an empty one, where `EVIL` lies too.
        count: mutations; by default `number()`.
    """
    (folder / EVIL).write_text('open("code_ran", "w").close()\nclass X: pass\n')
    found, done, count = Survey(), 0, number() if count is None else count
    while done < count:
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            os.close(reader)
            _child(write, read, folder, range(done, count), writer)
        os.close(writer)
        done = _listen(reader, child, found, done, count)
    found.code_ran = (folder / "code_ran").exists()
    print(f"{count} mutations: {dict(found.counts)}")
    return found


def _listen(reader: int, child: int, found: Survey, done: int, count: int) -> int:
    """Take down what the child reports, until it has ended or hangs in a library; how many are done then."""
    with os.fdopen(reader) as lines:
        while done < count:
            ready, _, _ = select.select([lines], [], [], 2 * SECONDS)
            line = lines.readline() if ready else ""
            if not line:
                kind = "traceback" if ready else "hang"
                found.counts[kind] += 1
                found.faults.append(f"{done}: {'the process died' if ready else 'hang outside Python'}")
                done += 1
                break
            kind, text = json.loads(line)
            found.counts[kind] += 1
            if kind not in ("accepted", "one line"):
                found.faults.append(f"{done}: {kind}: {text}")
            done += 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return done


class _Hang(BaseException):
    """A reading takes too long."""


def _child(write: Callable, read: Callable, folder: Path, numbers: range, writer: int) -> None:
    """In the process of the mutations; it does not return."""
    os.chdir(folder)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    size = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.RLIM_INFINITY))

    def stop(*_: Any) -> None:
        raise _Hang

    signal.signal(signal.SIGALRM, stop)
    with os.fdopen(writer, "w", buffering=1) as out:
        for number in numbers:
            write(random.Random(number))
            print(json.dumps(outcome(read)), file=out)
    os._exit(0)


def outcome(read: Callable[[], Any]) -> tuple[str, str]:
    """("accepted", "one line", "traceback", "hang" or "memory", what was said) of one reading, bounded in time."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read()
        return "accepted", ""
    except UserError as error:
        line = one_line(error)
        proper = len(line) <= LONGEST and len(line.splitlines()) == 1 and line.isprintable()
        return ("one line", line) if proper else ("traceback", f"not one line of {LONGEST}: {line[:2000]!r}")
    except _Hang:
        return "hang", _tail()
    except MemoryError:
        return "memory", _tail()
    except BaseException:
        return "traceback", _tail()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _tail() -> str:
    return traceback.format_exc()[-1500:]
