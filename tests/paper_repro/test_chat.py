"""The chat command: one message, a pipe, a terminal, mistakes in one line."""

from __future__ import annotations

import io

import pytest

from modules.command_line import guarded
from paper_repro import chat

SHORT = "--max_new_tokens", "4"


@pytest.fixture
def call(capsys, monkeypatch):
    """Run the command on what is piped in; its exit code, output and errors."""

    def run(*words: str, piped: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(piped))
        return guarded(lambda: chat.main([*words])), *capsys.readouterr()

    return run


def test_a_message_a_pipe_and_a_whole_text(call) -> None:
    code, alone, err = call("embedded", "--text", "Say red", *SHORT)
    assert code == 0 and alone.strip()
    assert call("embedded", "--text", "-", *SHORT, piped="Say red\n")[1] == alone
    code, out, _ = call("embedded", *SHORT, piped="Say red\n\n/reset\nSay red\n/exit\nSay blue\n")
    assert (code, out) == (0, 2 * alone), "a turn for each line; an empty one is none; /reset forgets; /exit ends"


def test_a_terminal(call, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed = iter(["/help", "a" * 3000, "Say red"])

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(io, "StringIO", Terminal)  # what `call` pipes in
    code, out, err = call("embedded", *SHORT)
    title, commands, again, *answer = out.splitlines()
    assert code == 0 and title.startswith("embedded: LlamaForCausalLM") and commands == again == chat.COMMANDS
    assert "".join(answer).strip(), "a text too long is one line, and the talk goes on"
    assert "the model has room for" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "there is no run, adapter or model 'nothing'"),
        (["embedded", "--text", " "], "--text is empty"),
        (["embedded", "--temperature", "-1"], "must lie between 0 and 100, not -1"),
        (["embedded", "--max_new_tokens", "many"], "invalid int value: 'many'"),
        (["embedded", "--temprature", "1"], "did you mean --temperature"),
    ],
)
def test_mistakes_are_one_line(words, line, call) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "") and line in err and err.strip().count("\n") == 0
