"""Tokens and batches: the cache gives what the tokenizer gives, and every row counts exactly once on any world size."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer

from modules.benchmarks.glue.data import GlueDataModule
from modules.benchmarks.glue.tasks import TASKS
from modules.data import tokens as tokens_module
from modules.data.padding import PaddedRows
from modules.data.samplers import EvalBatches, TrainBatches
from modules.data.source import Split
from modules.data.tokens import tokenise, tokenizer_hash
from tests.support.hub_server import tiny_tokenizer
from tests.support.tokens import make_tokens
from variants.errors import UserError

TEXTS = [(f"row {i} " + "word " * (i % 7), f"second {i}" * (1 + i % 3)) for i in range(23)]
ROWS = {
    "train": Split(TEXTS, [i % 2 for i in range(23)]),
    "validation": Split(TEXTS[:5], [1, 0, 1, 0, 1]),
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer([" ".join(row) for row in TEXTS])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- tokens and their cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("second_call", [False, True], ids=["made", "from the cache"])
@pytest.mark.parametrize("max_length", [12, 64])
def test_tokens_are_the_tokenizers(tokenizer, max_length, second_call):
    if second_call:
        tokenise(ROWS, tokenizer, max_length, "hash")
    result = tokenise(ROWS, tokenizer, max_length, "hash")
    for name, split in ROWS.items():
        got = result[name]
        rows = [got.ids[got.offsets[i] : got.offsets[i + 1]].tolist() for i in range(len(got))]
        assert rows == [tokenizer(*text, truncation=True, max_length=max_length)["input_ids"] for text in split.texts]
        assert got.labels.tolist() == split.labels and got.labels.dtype == np.int64
        assert got.types is None and got.lengths.max() <= max_length


def test_scores_are_float32(tokenizer):
    result = tokenise({"train": Split([("a", "b")], [2.5])}, tokenizer, 16, "hash")
    assert result["train"].labels.dtype == np.float32


def test_token_types_are_kept_where_the_tokenizer_makes_them():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[SEP]": 1, "x": 2, "y": 3}, unk_token="x"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 1)]
    )
    bert = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    for _ in range(2):
        got = tokenise({"train": Split([("x y", "y"), ("x", "x")], [0, 1])}, bert, 16, "hash")["train"]
        assert got.ids.tolist() == [2, 3, 1, 3, 1, 2, 1, 2, 1]
        assert got.types.tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 1]


def test_second_call_reads_the_cache(tokenizer, cache, monkeypatch):
    first = tokenise(ROWS, tokenizer, 32, "hash")
    monkeypatch.setattr(tokens_module, "_encode", lambda *_: pytest.fail("tokenised again"))
    again = tokenise(ROWS, tokenizer, 32, "hash")
    assert all(np.array_equal(first[name].ids, again[name].ids) for name in ROWS)
    assert len(list((cache / "tokens").iterdir())) == len(ROWS)  # and no temporary file is left


def test_cache_is_keyed_by_data_tokenizer_and_length(tokenizer, cache):
    other = tiny_tokenizer(["something else entirely"])
    for arguments in [(tokenizer, 32, "a"), (tokenizer, 33, "a"), (tokenizer, 32, "b"), (other, 32, "a")]:
        tokenise({"train": ROWS["train"]}, *arguments)
    assert len(list((cache / "tokens").iterdir())) == 4


def test_tokenizer_hash_ignores_what_a_call_leaves_behind(tokenizer):
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c d"], truncation=True, max_length=3, padding=True)
    assert tokenizer_hash(tokenizer) == before
    changed = tiny_tokenizer([" ".join(row) for row in TEXTS])
    assert tokenizer_hash(changed) == before
    changed.add_tokens(["brandnew"])
    assert tokenizer_hash(changed) != before


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "empty"])
def test_damaged_cache_is_made_again(tokenizer, cache, damage):
    want = tokenise({"train": ROWS["train"]}, tokenizer, 32, "hash")["train"]
    ids = want.ids.tolist()
    (path,) = (cache / "tokens").iterdir()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    altered = {"cut": bytes(content[:-40]), "flip": bytes(content), "garbage": b"\0" * 99, "empty": b""}
    path.unlink()  # `want` maps the old file
    path.write_bytes(altered[damage])
    with pytest.warns(UserWarning, match="damaged"):
        got = tokenise({"train": ROWS["train"]}, tokenizer, 32, "hash")["train"]
    assert got.ids.tolist() == ids
    assert tokenise({"train": ROWS["train"]}, tokenizer, 32, "hash")["train"].ids.tolist() == ids  # no warning now


def test_unwritable_cache_costs_only_time(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="going on without it"):
        assert len(tokenise(ROWS, tokenizer, 32, "hash")["train"]) == 23


def test_full_disk_costs_only_time(tokenizer, cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("variants.atomic.os.fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(tokenise(ROWS, tokenizer, 32, "hash")["train"]) == 23
    assert list((cache / "tokens").iterdir()) == []


def test_concurrent_writers(tokenizer, cache):
    results = []
    threads = [threading.Thread(target=lambda: results.append(tokenise(ROWS, tokenizer, 32, "hash"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len({result["train"].ids.tobytes() for result in results}) == 1
    assert len(list((cache / "tokens").iterdir())) == len(ROWS)


# --- which rows ------------------------------------------------------------------------------------------------

sizes = {
    "rows": st.integers(1, 70),
    "batch_size": st.integers(1, 20),
    "world": st.integers(1, 5),
    "fill": st.booleans(),
}


@settings(deadline=None, max_examples=60)
@given(**sizes, epoch=st.integers(0, 3))
def test_global_batches_do_not_depend_on_the_world(rows, batch_size, world, fill, epoch):
    def batches(rank: int, size: int):
        sampler = TrainBatches(rows, batch_size, 7, rank, size, fill)
        sampler.set_epoch(epoch)
        result = list(sampler)
        assert len(result) == len(sampler)
        return result

    alone = batches(0, 1)
    ranks = [batches(rank, world) for rank in range(world)]
    assert {len(result) for result in ranks} == {len(alone)}
    losses = np.random.default_rng(0).random(rows)
    for k, (single, weights) in enumerate(alone):
        parts = [result[k] for result in ranks]
        real = np.concatenate([part[part_weights > 0] for part, part_weights in parts])
        assert sorted(real) == sorted(single[weights > 0])
        assert all(len(part) >= 1 for part, _ in parts)
        if fill:
            assert {len(part) for part, _ in parts} == {-(-batch_size // world)}
        # DDP averages gradients over ranks: the average of the weighted sums is the mean of the global batch.
        averaged = np.mean([(losses[part] * part_weights).sum() for part, part_weights in parts])
        assert averaged == pytest.approx(losses[single[weights > 0]].mean(), rel=1e-6)
    assert sorted(np.concatenate([single[weights > 0] for single, weights in alone])) == list(range(rows))


@settings(deadline=None, max_examples=60)
@given(**sizes)
def test_evaluation_reads_every_row_once(rows, batch_size, world, fill):
    lengths = np.random.default_rng(rows).integers(1, 50, rows)
    ranks = [list(EvalBatches(lengths, batch_size, rank, world, fill)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(EvalBatches(lengths, batch_size, 0, world))}
    assert len(ranks[0]) >= 1
    everything = [batch for batches in ranks for batch in batches]
    assert all(1 <= len(part) <= batch_size for part, _ in everything)
    assert sorted(np.concatenate([part[weights > 0] for part, weights in everything])) == list(range(rows))
    assert {weight for _, weights in everything for weight in weights} <= {0.0, 1.0}
    longest = [max(lengths[batch[k][0]].max() for batch in ranks) for k in range(len(ranks[0]))]
    assert longest == sorted(longest, reverse=True)


def order(sampler: TrainBatches) -> list[int]:
    return np.concatenate([part for part, _ in sampler]).tolist()


def test_order_follows_seed_and_epoch():
    first, again, other = TrainBatches(50, 8, 0), TrainBatches(50, 8, 0), TrainBatches(50, 8, 1)
    assert order(first) == order(again) != order(other)
    second = []
    for sampler in (first, again):
        sampler.set_epoch(1)
        second.append(order(sampler))
    assert second[0] == second[1] != order(TrainBatches(50, 8, 0))
    # The stream itself is part of a result: it may not change with a version of a library.
    assert order(TrainBatches(10, 4, 0)) == [3, 7, 6, 4, 1, 0, 2, 8, 5, 9]


def test_order_is_drawn_at_the_first_batch():
    sampler, want = TrainBatches(50, 8, 0), TrainBatches(50, 8, 0)
    want.set_epoch(3)
    iterator = iter(sampler)
    sampler.set_epoch(3)  # Lightning sets the epoch after it has asked for the iterator
    assert np.concatenate([part for part, _ in iterator]).tolist() == order(want)


# --- padding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [False, True])
def test_padded_rows_hold_the_tokens(types):
    lengths = [3, 16, 1, 17, 40]
    tokens = make_tokens(lengths, types)
    rows = PaddedRows(tokens, pad_id=1, edges=(16, 24, 64))
    for chosen, width in [([0], 16), ([0, 1, 2], 16), ([2, 3], 24), ([4, 0, 3], 64)]:
        batch = rows[np.array(chosen), np.ones(len(chosen), np.float32)]
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(chosen), width)
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
        assert batch["labels"].tolist() == chosen and batch["weight"].dtype == torch.float32
        for i, row in enumerate(chosen):
            n = lengths[row]
            assert batch["input_ids"][i].tolist() == [10 + row] * n + [1] * (width - n)
            assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
            if types:
                assert batch["token_type_ids"][i].tolist() == [row % 2] * n + [0] * (width - n)
        assert ("token_type_ids" in batch) == types


def module(**options) -> GlueDataModule:
    splits = {"train": make_tokens([5 + i % 30 for i in range(43)]), "validation": make_tokens([4, 30, 9, 2, 21])}
    return GlueDataModule(TASKS["mrpc"], splits, pad_id=1, **{"batch_size": 8, "eval_batch_size": 2, **options})


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
