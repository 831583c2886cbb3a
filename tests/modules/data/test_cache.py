"""The cache of tokens: what it is keyed by, damage, full disks and several writers."""

import threading

import numpy as np
import pytest

from modules.data import tokens as tokens_module
from modules.data.tokens import tokenise
from tests.support.hub_server import tiny_tokenizer
from tests.support.tokens import ROWS


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
