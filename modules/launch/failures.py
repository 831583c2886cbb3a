"""How a run failed, and the words in which that is said: once, in one line where it is a mistake or a lost rank."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from modules.command_line import is_user_error, one_line
from modules.launch.claims import ClaimLost
from modules.runs.ranks import WAIT, rank
from variants.errors import first_line

LONGEST = 20_000
"""Characters of a traceback that are kept: its end."""
AGAIN = "the same command goes on from its last epoch"


@dataclass(frozen=True)
class Failure:
    """What is said of a run that failed.

    Attributes:
        line: after the word "error"; it names the run.
        code: the exit code: 2 after a mistake of the user's, else 1.
        traceback: of an error that nobody expected.
        lost: whether this rank only noticed that it had lost the others: then one of those says what happened.
        memory: whether a GPU had too little memory left, which others may have taken.
    """

    line: str
    code: int = 1
    traceback: str = ""
    lost: bool = False
    memory: bool = False

    @classmethod
    def of(cls, error: BaseException, title: str) -> Failure:
        """What is said of an error that ended the run ``title``, in the process where it was raised."""
        if is_user_error(error):
            return cls(f"{title}: {one_line(error)}", code=2)
        if isinstance(error, ClaimLost):
            return cls(f"{title} {error}")
        if any(map(_says_that_a_rank_is_lost, _causes(error))):
            return cls(f"rank {rank()} of {title} lost the other ranks ({_short(error)}); {AGAIN}", lost=True)
        if full := next(filter(_says_that_memory_is_full, _causes(error)), None):
            return cls(f"{title}: {_of_memory(full)}", memory=True)
        text = "".join(traceback.format_exception(error))
        return cls(f"{title} failed; the other runs go on", traceback=text[-LONGEST:])

    @classmethod
    def of_code(cls, code: int, who: str) -> Failure:
        """What is said of a process that ended with ``code`` and said nothing itself.

        Args:
            code: as `subprocess` gives it, or as a shell does; SIGABRT is how NCCL ends a rank that lost the others.
        """
        if (number := signal_of(code)) is None:
            return cls(f"{who} ended with code {code}; {AGAIN}")
        why = ", as the system does where memory runs out" if number == signal.SIGKILL else ""
        return cls(f"{who} was ended by signal {number} ({number.name}){why}; {AGAIN}", lost=number == signal.SIGABRT)

    def say(self) -> int:
        """Print it on standard error; the exit code."""
        print(f"{self.traceback}error: {self.line}", file=sys.stderr, flush=True)
        return self.code

    def written(self) -> bytes:
        """For the process that asked for it."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def read(cls, content: bytes) -> Failure | None:
        """What :meth:`written` gave; None where a process ended before it could tell."""
        return cls(**json.loads(content)) if content else None


def signal_of(code: int) -> signal.Signals | None:
    """The signal that ended a process with this exit code, if one did."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number) if number in {known.value for known in signal.Signals} and code != 130 else None


def _short(error: BaseException) -> str:
    """The first sentence of a collective operation's error, without the place in PyTorch's source."""
    text = re.sub(r"\[\S*/gloo/\S*\] ", "", first_line(error)).partition(". ")[0]
    return f"{text}; {WAIT} says how long to wait" if re.search("timed? ?out", text, re.IGNORECASE) else text


def _says_that_memory_is_full(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # without it there is no such error
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(re.search("_ALLOC_FAILED|CUDA error: out of memory", str(error)))


def _of_memory(error: BaseException) -> str:
    """How much a GPU had left, and what takes less."""
    found = re.search(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", str(error))
    left = f", {found[2]} of {found[1]}" if found else ""
    return (
        f"the GPU has too little memory left{left}: fewer runs at once (--jobs) or in a stack (--stack_rates), a "
        "smaller --batch_size, or --gradient_checkpointing on take less"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says_that_a_rank_is_lost(error: BaseException) -> bool:
    """Whether an error is of a collective operation: NCCL's and the store's have types, Gloo's name its files."""
    import torch.distributed as dist

    return dist.is_available() and (isinstance(error, dist.DistError) or "/gloo/" in str(error))
