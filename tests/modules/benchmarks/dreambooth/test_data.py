"""Batches of latents: noise belongs to (seed, epoch, row), whatever the number of processes; pictures of the class."""

from types import SimpleNamespace

import pytest
import torch

from modules.backbones.diffusion.image_model import ImageModel
from modules.benchmarks.dreambooth.data import LEVELS, PictureDataModule, Pictures, Table


class Names(ImageModel):
    def conditions(self, prompts):
        return {"x": torch.tensor([[float(len(prompt))] for prompt in prompts])}


TABLE = Table(Names(), ["a", "bb", "ccc", "dddd"])


def module(prior: bool = False, dropout: float = 0.0, repeats: int = 2, batch: int = 4, rank: int = 0, world: int = 1):
    latents = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    held = Pictures(latents[:2] + 10, TABLE.numbers(["a", "bb"]))
    pictures = {"train": Pictures(latents, TABLE.numbers(["a", "bb", "ccc"])), "validation": held}
    if prior:
        pictures["prior"] = Pictures(latents[:1] + 100, TABLE.numbers(["dddd"]))
    how = {"repeats": repeats, "prompt_dropout": dropout, "prior_weight": 0.5}
    found = PictureDataModule(pictures, TABLE, ("validation", "test"), batch, 16, seed=3, **how)
    found.trainer = SimpleNamespace(global_rank=rank, world_size=world, training=True)
    return found


def epoch(data, number: int):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def test_an_epoch_has_each_picture_as_often_as_said():
    batches = epoch(module(), 0)
    assert sorted(torch.cat([each["latents"][:, 0, 0, 0] for each in batches]).tolist()) == [0, 0, 1, 1, 2, 2]
    assert module().steps_per_epoch == len(batches) == 2 and module().tokens_per_epoch == 6
    for each in batches:
        assert torch.equal(each["told.x"][:, 0], each["latents"][:, 0, 0, 0] + 1)  # the picture's own prompt
        assert each["weight"].sum() == pytest.approx(1.0)


def test_noise_is_the_rows_own_in_every_epoch_and_on_every_rank():
    first, again, other = epoch(module(), 0), epoch(module(), 0), epoch(module(), 1)
    assert all(torch.equal(a["noise"], b["noise"]) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a["noise"][0], b["noise"][0]) for a in first for b in other)
    ranks = [epoch(module(rank=rank, world=2), 0) for rank in (0, 1)]
    alone = {tuple(noise.flatten().tolist()) for each in first for noise in each["noise"]}
    real = [noise for each in ranks[0] + ranks[1] for noise in each["noise"][each["weight"] > 0]]
    shared = {tuple(noise.flatten().tolist()) for noise in real}
    assert alone == shared and len(alone) == 6


def test_a_picture_of_the_class_stands_behind_each_row():
    for each in epoch(module(prior=True), 0):
        assert (each["latents"][1::2] == 100).all() and (each["latents"][::2] < 3).all()
        assert torch.allclose(each["weight"][1::2], 0.5 * each["weight"][::2])
        assert (each["told.x"][1::2] == 4).all() and len(each["noise"]) == len(each["levels"]) == len(each["latents"])
        assert not torch.equal(each["noise"][0], each["noise"][1])
    assert module(prior=True).tokens_per_epoch == 12


def test_prompts_are_left_out():
    rows = torch.cat([each["told.x"] for each in epoch(module(dropout=0.5, repeats=100), 0)])
    assert 0.4 < (rows == 0).float().mean() < 0.6
    assert all((each["told.x"] == 0).all() for each in epoch(module(dropout=1.0), 0))


def test_held_out_pictures_meet_the_same_noise_always():
    data = module()
    (loader,) = data.val_dataloader()
    first, again = list(loader), list(data.val_dataloader()[0])
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)
    levels = torch.cat([each["levels"] for each in first])
    assert len(levels) == 2 * LEVELS and len(set(levels.tolist())) == LEVELS and levels.mean() == pytest.approx(0.5)
    assert data.eval_splits == ("validation",)


def test_rows_of_stacked_seeds_lie_one_behind_the_other():
    data = module(prior=True)
    data.seeds = [3, 4]
    stacked, alone = epoch(data, 0), epoch(module(prior=True), 0)
    for both, one in zip(stacked, alone, strict=True):
        assert all(torch.equal(both[name][: len(one[name])], one[name]) for name in one)
        assert len(both["noise"]) == 2 * len(one["noise"])
