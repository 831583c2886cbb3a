"""A few words with a language model that was trained: a run, an adapter's folder, or a merged model.

    python paper_repro/chat.py results/runs/0123456789ab                    turn by turn; /reset forgets, /exit ends
    python paper_repro/chat.py my-peft-adapter --model path/to/base         an adapter of PEFT's or ours, on its base
    python paper_repro/chat.py merged --text "Name three rivers."           one answer
    python paper_repro/chat.py merged < questions.txt                       a turn for each line
    python paper_repro/chat.py merged --text - < letter.txt                 all of it as one message

The tokenizer's chat template is put around the turns, or the one that the run was trained with. Answers are drawn as
the model's generation_config.json says; where it says nothing they are the likeliest words (--temperature 0: always).
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modules.command_line import Parser, guarded, place
from modules.command_line.waiting import waiting
from variants.convert import VARIANT_HELP
from variants.errors import UserError, one_line

if TYPE_CHECKING:
    from modules.inference.conversation import Conversation

COMMANDS = "/reset forgets what was said, /exit ends"


def number(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """The type of an argument that is a number from ``least`` to ``most``."""

    def read(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must lie between {least:g} and {most:g}, not {text}")
        return value

    read.__name__ = kind.__name__
    return read


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("source", help="a run's folder or id, an adapter's folder, a transformers model, or embedded")
    add("--model", help="an adapter's base model, if it is not where its file says: a folder or Hub id")
    add("--text", help="one message; - reads it from standard input (default: turn by turn)")
    add("--system", help="what the model is told before the first turn")
    add("--max_new_tokens", type=number(int, 1, 1e6), default=512, help="longest answer, in tokens (default: 512)")
    add("--temperature", type=number(float, 0, 100), help="of sampling; 0: the likeliest (default: the model's)")
    add("--top_p", type=number(float, 0, 1), help="draw among the likeliest with this sum of probabilities")
    add("--seed", type=number(int, 0, 2**32), help="of what is drawn (default: another each time)")
    add("--which", choices=("best", "last"), default="best", help="the epoch of a run (default: best)")
    add("--variant", metavar="FILE:CLASS", help=VARIANT_HELP)
    add("--results_dir", type=place, default="results", help="where an id is looked up (default: results)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = parse(argv)
    text = sys.stdin.read().strip() if given.text == "-" else given.text
    if text is not None and not text.strip():
        raise UserError("--text is empty")
    with waiting("loading"):
        from transformers import logging

        from modules.inference.conversation import Conversation
        from modules.inference.speaker import speaker

        logging.set_verbosity_error()  # its advice on generation is for programmers
        found = speaker(
            given.source, given.which, model=given.model, variant=given.variant, results_dir=given.results_dir
        )
    sampling = {name: getattr(given, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
    conversation = Conversation(found, given.system, **sampling)
    if text is not None:
        _answer(conversation, text)
        return 0
    typed = sys.stdin.isatty()
    if typed:
        print(f"{found.title}\n{COMMANDS}")
    return _talk(conversation, _typed() if typed else (line.rstrip("\r\n") for line in sys.stdin), typed)


def _talk(conversation: Conversation, lines: Iterator[str], typed: bool) -> int:
    """Answer each line, until there is no other."""
    for line in lines:
        word = line.strip()
        if word in ("/exit", "/quit"):
            break
        if word == "/reset":
            conversation.reset()
        elif word.startswith("/") and " " not in word and typed:
            print(COMMANDS)
        elif word:
            try:
                _answer(conversation, line)
            except KeyboardInterrupt:
                if not typed:
                    raise
                print("\n(stopped; this turn is forgotten)")
            except UserError as error:
                if not typed:
                    raise
                print(f"error: {one_line(error)}", file=sys.stderr)
    return 0


def _typed() -> Iterator[str]:
    """Lines of a person at a terminal; Ctrl-C and Ctrl-D end them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (lines can be edited, and come back)
    while True:
        try:
            yield input("\n> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _answer(conversation: Conversation, text: str) -> None:
    from transformers import TextStreamer

    conversation.say(text, TextStreamer(conversation.tokenizer, skip_prompt=True, skip_special_tokens=True))


if __name__ == "__main__":
    sys.exit(guarded(main))
