"""Settings of the pretraining commands: what makes no model is refused in one line, before anything is read."""

from __future__ import annotations

import pytest

from modules.pretraining.settings import GPT2Settings, LlamaSettings, MaskedSettings, parse_settings
from variants.errors import UserError

KINDS = (GPT2Settings, LlamaSettings, MaskedSettings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_are_valid_and_a_folder_must_be_named(kind, tmp_path):
    settings = parse_settings(kind, "", ["--out", str(tmp_path)])
    assert settings.hidden % settings.unit == 0
    with pytest.raises(UserError, match="name a folder with --out; --out modules/embedded/"):
        parse_settings(kind, "", [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flag", ["--steps 0", "--layers 0", "--hidden -64", "--lr nan", "--lr 0", "--seed -1"])
def test_numbers_out_of_range_are_named(kind, flag, tmp_path):
    name, value = flag.split()
    with pytest.raises(UserError, match=rf"{name} {value}: must be "):
        parse_settings(kind, "", [name, value, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "kind, flags, says",
    [
        (GPT2Settings, "--hidden 100 --heads 7", "multiple of 7"),
        (LlamaSettings, "--hidden 8 --heads 8", "multiple of 16"),
        (MaskedSettings, "--hidden 100", "multiple of 32"),
    ],
)
def test_heads_divide_the_hidden_size(kind, flags, says, tmp_path):
    with pytest.raises(UserError, match=says):
        parse_settings(kind, "", [*flags.split(), "--out", str(tmp_path)])


@pytest.mark.parametrize("kind", [LlamaSettings, MaskedSettings])
def test_no_command_takes_a_text_that_it_does_not_read(kind, tmp_path):
    with pytest.raises(UserError, match="--text"):
        parse_settings(kind, "", ["--text", "mine.txt", "--out", str(tmp_path)])
