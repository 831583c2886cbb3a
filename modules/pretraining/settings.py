"""Settings of the pretraining commands: a dataclass for each, which is also its command line."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from modules.command_line import Parser
from modules.embedded import GPT2, LLAMA, ROBERTA, SPRITES, UNET
from modules.paths import PROJECT, checkout
from variants.errors import UserError

Settings = TypeVar("Settings")

NOWHERE = Path()
"""No folder was named."""


def _setting(default: Any, text: str, zero: bool = False) -> Any:
    """A field with the text that `--help` shows; numbers are above 0, or may be 0."""
    return field(default=default, metadata={"help": text, "zero": zero})


@dataclass
class CausalSettings:
    """What the causal language models share."""

    UNIT: ClassVar[str] = "the number of heads"
    steps: int = _setting(2500, "optimizer steps")
    minutes: float = _setting(
        0.0, "stop by then, the learning rate having fallen to 0 over that time; 0 counts steps alone", zero=True
    )
    batch_size: int = _setting(16, "rows per step")
    length: int = _setting(128, "tokens per row")
    lr: float = _setting(4e-3, "peak learning rate, with linear warm-up and decay")
    layers: int = _setting(4, "transformer layers")
    hidden: int = _setting(128, "hidden size")
    heads: int = _setting(4, "attention heads")
    positions: int = _setting(256, "longest input of the model")
    seed: int = _setting(0, "seed of corpus, order and initial weights", zero=True)
    device: str = _setting("auto", "auto, cpu or cuda")
    weight_decay: float = _setting(0.01, "of AdamW, on matrices", zero=True)
    out: Path = _setting(NOWHERE, "folder to write")
    reference: bool = _setting(False, "without acceleration: no CUDA graphs")
    deterministic: bool = _setting(
        False, "the same command writes the same weights, byte for byte, on the same kind of GPU; needs --minutes 0"
    )

    def __post_init__(self) -> None:
        """The clock is not the same twice."""
        if self.deterministic and self.minutes:
            raise UserError("--deterministic: --minutes ends by a clock; name --steps alone")

    @property
    def unit(self) -> int:
        """The hidden size is a multiple of it."""
        return self.heads


@dataclass
class GPT2Settings(CausalSettings):
    """Settings of `causal_lm.pretrain`."""

    text: str = _setting("", "comma list of text files, plain, .gz, .bz2 or .xz, with empty lines between documents")
    bpe: str = _setting("", "folder of a GPT-2 tokenizer, for --text")


@dataclass
class LlamaSettings(CausalSettings):
    """Settings of `small_llama.pretrain`."""

    UNIT: ClassVar[str] = "twice the number of heads, as rotary positions turn pairs"
    steps: int = _setting(8000, "optimizer steps")
    batch_size: int = _setting(256, "rows per step")
    lr: float = _setting(2e-3, "peak learning rate, with linear warm-up and decay")
    layers: int = _setting(5, "transformer layers")
    hidden: int = _setting(192, "hidden size")
    heads: int = _setting(6, "attention heads; if a multiple of three, three share keys and values")
    chunks: int = _setting(600, "thousands of documents that are drawn; rows begin anywhere in them")

    @property
    def unit(self) -> int:
        """See `CausalSettings.unit`."""
        return 2 * self.heads


@dataclass
class MaskedSettings:
    """Settings of `masked_lm.pretrain`."""

    UNIT: ClassVar[str] = "the width of a head"
    unit: ClassVar[int] = 32
    steps: int = _setting(30000, "optimizer steps")
    batch_size: int = _setting(512, "documents per step")
    documents: int = _setting(8_000_000, "corpus size; masks are drawn anew each time")
    lr: float = _setting(1.5e-3, "peak learning rate, with linear warm-up and decay")
    hide: float = _setting(0.5, "share of documents whose discourse word <s> must predict", zero=True)
    layers: int = _setting(4, "transformer layers")
    hidden: int = _setting(128, "hidden size, 32 per head")
    seed: int = _setting(0, "seed of corpus, masks and initial weights", zero=True)
    device: str = _setting("auto", "auto, cpu or cuda")
    workers: int = _setting(os.cpu_count() or 1, "processes that write the corpus")
    out: Path = _setting(NOWHERE, "folder to write")
    reference: bool = _setting(False, "without acceleration: no CUDA graphs")


@dataclass
class ImageSettings:
    """Settings of `image_model.pretrain`."""

    UNIT: ClassVar[str] = "the number of heads, and of 24 for a UNet's groups of channels"
    SIZES: ClassVar[dict[str, dict[str, int]]] = {
        "dit": {"layers": 5, "hidden": 128, "heads": 4},
        "unet": {"layers": 1, "hidden": 48, "heads": 3},
    }
    model: str = _setting("dit", "dit (PixArt's transformer, by flow matching) or unet (3 x 3 convolutions, by DDPM)")
    pictures: str = _setting("sprites", "sprites (generated), or twemoji or noto (of the folder that EMOJI_DIR names)")
    steps: int = _setting(30000, "optimizer steps")
    minutes: float = _setting(
        0.0, "stop by then, the learning rate having fallen to 0 over that time; 0 counts steps alone", zero=True
    )
    batch_size: int = _setting(256, "pictures per step")
    lr: float = _setting(1e-3, "peak learning rate, with linear warm-up and decay")
    layers: int = _setting(0, "transformer layers, or residual blocks of each of the UNet's three levels: 5, 1", True)
    hidden: int = _setting(0, "hidden size, or channels of the UNet's lower levels: 128, 48", True)
    heads: int = _setting(0, "attention heads: 4, 3", True)
    patch: int = _setting(4, "pixels of a patch's side, of a transformer; divides 32")
    start: str = _setting("", "folder of such a model to start from, in place of random weights")
    painted: int = _setting(128, "prompts that are painted and read at the end; 0 for none", zero=True)
    average: float = _setting(0.999, "decay of the moving average of the weights, which is what is written", zero=True)
    seed: int = _setting(0, "seed of pictures, noise and initial weights", zero=True)
    device: str = _setting("auto", "auto, cpu or cuda")
    out: Path = _setting(NOWHERE, "folder to write")
    reference: bool = _setting(False, "without acceleration: no CUDA graphs")

    def __post_init__(self) -> None:
        """Sizes that were left at 0 become the model's usual ones."""
        if self.model not in self.SIZES:
            raise UserError(f"--model {self.model}: must be {' or '.join(self.SIZES)}")
        for name, usual in self.SIZES[self.model].items():
            setattr(self, name, getattr(self, name) or usual)

    @property
    def unit(self) -> int:
        """The hidden size is a multiple of it."""
        return self.heads if self.model == "dit" else math.lcm(24, self.heads)


SHIPPED = {GPT2Settings: (GPT2,), LlamaSettings: (LLAMA,), MaskedSettings: (ROBERTA,), ImageSettings: (SPRITES, UNET)}
"""Folders of the models that ship."""


def parse_settings(kind: type[Settings], description: str, argv: Sequence[str] | None = None) -> Settings:
    """Settings from a command line; every field of the dataclass is a flag.

    Args:
        description: of the command, for `--help`.

    Raises:
        UserError: a size makes no model, there is no --out, or an installed copy would replace the model that ships
            with it.
    """
    parser = Parser(description)
    for item in dataclasses.fields(kind):
        text = item.metadata["help"]
        if isinstance(item.default, bool):
            parser.add_argument(f"--{item.name}", action="store_true", help=text)
        else:
            parser.add_argument(
                f"--{item.name}", type=type(item.default), default=item.default, help=text + _default(item.default)
            )
    settings = kind(**vars(parser.parse_args(argv)))
    _refuse_sizes(settings)
    if settings.out == NOWHERE:
        shipped = SHIPPED[kind][0].relative_to(PROJECT)
        raise UserError(f"name a folder with --out; --out {shipped} replaces the model that ships with a checkout")
    if settings.out.resolve() in SHIPPED[kind]:
        checkout("name another folder with --out: this one is the model that ships")
    return settings


def _refuse_sizes(settings: Any) -> None:
    """Numbers out of range, and sizes that heads do not divide."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if type(value) not in (int, float):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and not item.metadata["zero"]):
            raise UserError(f"--{item.name} {value:g}: must be {'0 or more' if item.metadata['zero'] else 'above 0'}")
    if settings.hidden % settings.unit:
        raise UserError(f"--hidden {settings.hidden}: must be a multiple of {settings.unit}, {settings.UNIT}")


def _default(value: Any) -> str:
    return (
        ""
        if value in ("", NOWHERE)
        else f" (default: {value:g})"
        if isinstance(value, float)
        else f" (default: {value})"
    )
