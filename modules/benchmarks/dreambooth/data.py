"""Batches of latents: which noise each picture gets, which prompts are left out, and pictures of the class beside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from modules.backbones.diffusion.image_model import Conditions, ImageModel, generator
from modules.data.module import PaddedDataModule
from modules.data.samplers import EvalBatches, NoisyBatches, StackedBatches

LEVELS = 8
"""Levels of noise at which each held-out picture is scored; always the same, with the same noise."""
TOLD = "told."
"""What the names of the denoiser's conditions begin with in a batch."""


class Pictures(NamedTuple):
    """Latents (N, C, h, w), and for each which row of the table of conditions belongs to it (N,) int64."""

    latents: Tensor
    prompts: Tensor


class Table:
    """What the denoiser is told of each prompt, asked of the model once. The empty prompt has row 0."""

    def __init__(self, model: ImageModel, prompts: Sequence[str]) -> None:
        self.rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        self.conditions: Conditions = model.conditions(list(self.rows))

    def numbers(self, prompts: Sequence[str]) -> Tensor:
        """The rows of prompts (N,) int64."""
        return torch.tensor([self.rows[prompt] for prompt in prompts])


class _Training(Dataset):
    """Indexed by (rows, weights, seeds) of `NoisyBatches`; each row is followed by a picture of the class,
    if there are any."""

    def __init__(self, own: PictureDataModule) -> None:
        self.own = own

    def __getitem__(self, batch: tuple[np.ndarray, ...]) -> dict[str, Tensor]:
        rows, weights, seeds = batch
        own, pictures = self.own, self.own.pictures["train"]
        drawn = [_Draw(generator(int(seed)), own, pictures.latents.shape[1:]) for seed in seeds]
        places = torch.from_numpy(rows % len(pictures.latents))
        chosen, scale = [(pictures, places)], [torch.from_numpy(weights).float()]
        if prior := own.pictures.get("prior"):
            others = torch.tensor([int(draw.other * len(prior.latents)) for draw in drawn])
            chosen.append((prior, others))
            scale.append(own.prior_weight * scale[0])
        parts = len(chosen)
        told = _in_turn([picked.prompts[places] for picked, places in chosen])
        empty = torch.tensor([each for draw in drawn for each in draw.empty[:parts]])
        return own.told(torch.where(empty, 0, told)) | {
            "latents": _in_turn([picked.latents[places] for picked, places in chosen]),
            "noise": torch.cat([draw.noise[:parts] for draw in drawn]),
            "levels": torch.tensor([each for draw in drawn for each in draw.levels[:parts]]),
            "weight": _in_turn(scale),
        }


def _in_turn(parts: Sequence[Tensor]) -> Tensor:
    """The first of each part, then the second of each, ...: the rows of one stacked adapter stay together."""
    return torch.stack(list(parts), 1).flatten(0, 1)


class _Draw:
    """What is drawn for one row: its own, and that of the picture of the class beside it."""

    def __init__(self, source: torch.Generator, own: PictureDataModule, shape: torch.Size) -> None:
        self.noise = torch.randn((2, *shape), generator=source)
        self.levels = torch.rand(2, generator=source).clamp(1e-4, 1 - 1e-4).tolist()
        self.empty = (torch.rand(2, generator=source) < own.prompt_dropout).tolist()
        self.other = torch.rand((), generator=source).item()


class _Held(Dataset):
    """Indexed by (rows, weights): each picture at `LEVELS` levels, one row each."""

    def __init__(self, own: PictureDataModule, split: str) -> None:
        self.own, self.pictures = own, own.pictures[split]

    def __getitem__(self, batch: tuple[np.ndarray, np.ndarray]) -> dict[str, Tensor]:
        rows, weights = batch
        places = torch.from_numpy(rows // LEVELS)
        shape = self.pictures.latents.shape[1:]
        return self.own.told(self.pictures.prompts[places]) | {
            "latents": self.pictures.latents[places],
            "noise": torch.stack([torch.randn(shape, generator=generator(int(row))) for row in rows]),
            "levels": torch.from_numpy((rows % LEVELS + 0.5) / LEVELS).float(),
            "weight": torch.from_numpy(weights).float(),
        }


class PictureDataModule(PaddedDataModule):
    """The loaders of one run.

    Args:
        pictures: "train", the evaluation splits, and "prior", of the class, where there are any.
        table: of all their prompts.
        eval_splits: names of all evaluation splits that may exist.
        batch_size: pictures of one step over all processes, those of the class apart: there are as many of them.
        repeats: how often an epoch has each picture.
        prompt_dropout: share of pictures that are trained without their prompt.
        prior_weight: of the class's losses.
    """

    def __init__(
        self,
        pictures: Mapping[str, Pictures],
        table: Table,
        eval_splits: Sequence[str],
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        repeats: int = 1,
        prompt_dropout: float = 0.0,
        prior_weight: float = 0.0,
    ) -> None:
        LightningDataModule.__init__(self)
        self.pictures, self.table, self.seeds = dict(pictures), table, [seed]
        self.eval_splits = tuple(name for name in eval_splits if name in pictures)
        self.batch_size, self.eval_batch_size, self.fill = batch_size, eval_batch_size, False
        self.repeats, self.prompt_dropout, self.prior_weight = repeats, prompt_dropout, prior_weight

    def told(self, numbers: Tensor) -> dict[str, Tensor]:
        """What the denoiser is told by rows of the table (B,), as a batch has it."""
        return {f"{TOLD}{name}": value[numbers] for name, value in self.table.conditions.items()}

    @property
    def rows(self) -> int:
        """Of an epoch."""
        return len(self.pictures["train"].latents) * self.repeats

    @property
    def steps_per_epoch(self) -> int:
        """See `PaddedDataModule`."""
        return math.ceil(self.rows / self.batch_size)

    @property
    def tokens_per_epoch(self) -> int:
        """Pictures of an epoch, with those of the class: what takes the time."""
        return self.rows * (2 if "prior" in self.pictures else 1)

    def pad_exactly(self) -> None:
        """Nothing is padded."""

    def pack(self, first_position: int | None, rounded: bool = False) -> None:
        """Nothing is packed."""

    def train_dataloader(self) -> DataLoader:
        """The training batches of each epoch, for this rank; the order is that of (seed, epoch)."""
        orders = [NoisyBatches(self.rows, self.batch_size, seed, *self._place(), self.fill) for seed in self.seeds]
        return self._batches(_Training(self), orders[0] if len(orders) == 1 else StackedBatches(orders))

    def _eval_loader(self, split: str) -> DataLoader:
        lengths = np.ones(len(self.pictures[split].latents) * LEVELS, np.int64)
        return self._batches(_Held(self, split), EvalBatches(lengths, self.eval_batch_size, *self._place(), self.fill))
