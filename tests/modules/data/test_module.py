"""The data module: batches of few shapes, its counts, its ranks, and resuming in Lightning."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.text.data import TextDataModule
from modules.data.samplers import TrainBatches
from tests.support.tokens import make_tokens, order
from variants.errors import UserError


def module(**options) -> TextDataModule:
    splits = {"train": make_tokens([5 + i % 30 for i in range(43)]), "validation": make_tokens([4, 30, 9, 2, 21])}
    return TextDataModule(TASKS["mrpc"], splits, pad_id=1, **{"batch_size": 8, "eval_batch_size": 2, **options})


@pytest.mark.parametrize(
    ("options", "widths"),
    [({}, {16, 24, 32, 48}), ({"max_length": 36}, {16, 24, 32, 36}), ({"pad": "max", "max_length": 100}, {100})],
)
def test_widths_come_from_a_small_fixed_set(options, widths):
    data = module(batch_size=1, **options)
    assert {batch["input_ids"].shape[1] for batch in data.train_dataloader()} == widths


def test_filled_batches_have_one_height():
    data = module(fill=True)
    assert {len(batch["labels"]) for batch in data.train_dataloader()} == {8}
    weights = torch.cat([batch["weight"] for batch in data.train_dataloader()])
    assert (weights > 0).sum() == 43


def test_data_module_counts():
    data = module()
    assert data.steps_per_epoch == len(data.train_dataloader()) == 6
    assert data.tokens_per_epoch == sum(5 + i % 30 for i in range(43))
    assert data.tokens_per_epoch == sum(int(batch["attention_mask"].sum()) for batch in data.train_dataloader())
    assert data.eval_splits == ("validation",) and len(data.val_dataloader()) == 1


def test_ranks_come_from_the_trainer():
    seen = []
    for rank in range(3):
        data = module()
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        for loader in (data.train_dataloader(), *data.val_dataloader()):
            seen.append([int(row) for batch in loader for row in batch["labels"][batch["weight"] > 0]])
    assert sorted(seen[0] + seen[2] + seen[4]) == list(range(43))
    assert sorted(seen[1] + seen[3] + seen[5]) == list(range(5))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at least 1, not 0"):
        module(batch_size=0)
    with pytest.raises(UserError, match="bucket or max"):
        module(pad="left")
    with pytest.raises(UserError, match="do not fit max_length 16"):
        module(max_length=16)


def test_loaders_leave_the_global_generator_alone():
    data = module()
    before = torch.get_rng_state()
    next(iter(data.train_dataloader()))
    assert torch.equal(before, torch.get_rng_state())


# --- in Lightning ----------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Notes the rows of every training epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch, _):
        self.seen.setdefault(self.current_epoch, []).extend(batch["labels"].tolist())
        return (batch["weight"] * self.weight).sum()

    def validation_step(self, batch, _, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, epochs: int, checkpoint: str | None = None) -> tuple[Recorder, Trainer]:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Recorder()
    trainer.fit(model, datamodule=module(), ckpt_path=checkpoint)
    return model, trainer


@pytest.mark.filterwarnings("ignore")
def test_lightning_reshuffles_each_epoch_and_resumes_in_the_same_order(tmp_path):
    whole, _ = fit(tmp_path, 3)
    assert all(sorted(rows) == list(range(43)) for rows in whole.seen.values())
    assert len({tuple(rows) for rows in whole.seen.values()}) == 3
    for epoch, rows in whole.seen.items():
        sampler = TrainBatches(43, 8, 0)
        sampler.set_epoch(epoch)
        assert rows == order(sampler)
    _, first = fit(tmp_path, 1)
    first.save_checkpoint(tmp_path / "first.ckpt")
    resumed, _ = fit(tmp_path, 3, str(tmp_path / "first.ckpt"))
    assert resumed.seen == {1: whole.seen[1], 2: whole.seen[2]}
