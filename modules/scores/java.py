"""The two Java programs of the COCO caption tools: METEOR 1.5 and Stanford's PTB tokeniser (CoreNLP 3.4.1).

`pycocoevalcap` (the extra `e2e`) carries both jars. They are started here and not by its wrappers, which write into
their own folder, depend on the locale's encoding, and break without a message when Java does.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

_METEOR = "meteor/meteor-1.5.jar"
_STANFORD = "tokenizer/stanford-corenlp-3.4.1.jar"
_UTF8 = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8")


class Unavailable(Exception):
    """Java or one of its programs is missing; the message says in a line which."""


def missing() -> str | None:
    """A line that names what METEOR lacks on this machine; None where it lacks nothing."""
    lacks = [] if shutil.which("java") else ["a Java runtime (8 or newer) on the PATH"]
    if _jar(_METEOR) is None:
        lacks.append('the extra e2e (pip install -e ".[e2e]")')
    return f"METEOR needs {' and '.join(lacks)}" if lacks else None


def version() -> str | None:
    """Version of the Java runtime on the PATH; None where there is none that runs."""
    if not shutil.which("java"):
        return None
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    said = (done.stderr or done.stdout).strip().split("\n")[0]
    return None if done.returncode or not said else said


def meteor(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of N tokenised outputs, in [0, 1], aggregated over the corpus; English, `-norm`.

    Source: Denkowski and Lavie 2014. Raises Unavailable without Java or the jar.
    """
    if lack := missing():
        raise Unavailable(lack)
    command = ["java", *_UTF8, "-Xmx2G", "-jar", str(_jar(_METEOR)), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as complaints:
        try:
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, encoding="utf-8"
            ) as process:

                def ask(line: str) -> str:
                    process.stdin.write(line + "\n")
                    process.stdin.flush()
                    return process.stdout.readline().strip()

                pairs = zip(outputs, references, strict=True)
                statistics = [ask(" ||| ".join(("SCORE", *group, output))) for output, group in pairs]
                first = ask(" ||| ".join(("EVAL", *statistics)))
                # One line per output, then the corpus's score.
                return float([first, *(process.stdout.readline() for _ in outputs)][-1])
        except (OSError, ValueError):
            complaints.seek(0)
            said = complaints.read().decode(errors="replace").split("\n", 1)[0] or "no message"
            raise Unavailable(f"METEOR's Java program does not run here: {said}") from None


def stanford(lines: Sequence[str]) -> list[str] | None:
    """Lines tokenised by Stanford's program as the COCO tools call it, with punctuation; None where it does not run."""
    jar = _jar(_STANFORD)
    if jar is None or not shutil.which("java"):
        return None
    command = ["java", *_UTF8, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "captions")
        text.write_bytes("\n".join(lines).encode("utf-8", "replace"))
        done = subprocess.run([*command, str(text)], capture_output=True, check=False)
    tokenized = done.stdout.decode("utf-8", "replace").split("\n")
    return None if done.returncode or len(tokenized) < len(lines) else tokenized[: len(lines)]


def _jar(name: str) -> Path | None:
    """Path of a jar in the package pycocoevalcap, which is not imported; None where it is not installed."""
    spec = find_spec("pycocoevalcap")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder, name)).is_file():
            return path
    return None
