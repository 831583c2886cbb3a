"""E2E's rows: the two published forms, real files, mistakes in files, masking, the generated set, the Hub."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.benchmarks.e2e import TASK
from modules.benchmarks.e2e.data import E2EDataModule, TargetRows, encode, inputs_of
from modules.benchmarks.e2e.sources import REPO, REVISION, EmbeddedSource, FolderSource
from modules.benchmarks.e2e.text import LINEARISATIONS, read_authors_mr, read_csv_mr, spaced
from modules.data.tokens import Tokens
from modules.pretraining.causal_lm import word_tokenizer
from tests.support.e2e_tiny import csv_folder, pairs, text_folder, words
from tests.support.hub_server import HubServer
from tests.support.processes import run as in_new_process
from variants.errors import UserError

# ---- the two forms ------------------------------------------------------------------------------------------------


def real(*parts: str) -> Path:
    folder = Path(os.environ.get("E2E_DIR", ""), *parts)
    if "E2E_DIR" not in os.environ or not folder.is_dir():
        pytest.skip(f"needs the real data: E2E_DIR with {'/'.join(parts) or 'the CSV files'}")
    return folder


def test_the_real_files_of_both_forms_give_the_same_rows():
    official, authors = FolderSource(real()), FolderSource(real("lora_format"))
    first, second = official.load(TASK), authors.load(TASK)
    assert first == second and official.hash(TASK) == authors.hash(TASK)
    sizes = {name: (len(split), len(set(split.labels))) for name, split in first.items()}
    assert sizes == {"train": (42061, 4862), "validation": (4672, 547), "test": (4693, 630)}
    for name, file in (("train", "train.txt"), ("validation", "valid.txt"), ("test", "test.txt")):
        lines = (real("lora_format") / file).read_text(encoding="utf-8").split("\n")[:-1]
        assert [f"{mr}||{text} " for mr, text in first[name].texts] == lines  # byte for byte


@pytest.mark.parametrize(
    "split, raw, expected",
    [
        ("train", "It isn't £20-25, it's St. John's.", "It isn 't £ 20 - 25 , it 's St. John 's ."),
        ("validation", "A 5-star pub (£20-£25) .price: 10.50..", "A 5 - star pub ( £ 20- £ 25 ) .price : 10.50 .."),
        ("test", 'It isn\'t £20-25; thats 5-star: "X".', 'It is n\'t £ 20 - 25 ; that s 5-star : " X " .'),
    ],
)
def test_spacing_is_that_of_each_split(split, raw, expected):
    assert spaced(raw, split) == expected


def test_a_real_meaning_representation_in_all_forms():
    text = "name[Blue Spice], eatType[pub], priceRange[less than £20], customer rating[5 out of 5], familyFriendly[no]"
    slots = read_csv_mr(text)
    authors = (
        "name : Blue Spice | Type : pub | price : less than £ 20 | customer rating : 5 out of 5 | family friendly : no"
    )
    assert LINEARISATIONS["authors"](slots) == authors
    assert LINEARISATIONS["challenge"](slots) == text.replace("£20", "£ 20")
    assert LINEARISATIONS["words"](slots).startswith("name is Blue Spice. Type is pub. price is less than £ 20.")


_word = st.text("abcXYZé£123", min_size=1, max_size=6)


@given(st.lists(st.tuples(_word, st.lists(_word, min_size=1, max_size=3).map(" ".join)), min_size=1, max_size=8))
def test_the_authors_form_can_be_read_back(slots):
    slots = tuple(slots)
    assert read_authors_mr(LINEARISATIONS["authors"](slots)) == slots


def test_tiny_folders_of_both_forms_agree(tmp_path):
    sources = [FolderSource(csv_folder(tmp_path / "csv")), FolderSource(text_folder(tmp_path / "text"))]
    assert sources[0].load(TASK) == sources[1].load(TASK)
    assert sources[0].sizes == {"e2e": {name: len(rows) for name, rows in pairs().items()}}


# ---- mistakes -----------------------------------------------------------------------------------------------------


def change(name: str, number: int, line: str | bytes):
    """Replace one line of a file."""

    def apply(folder: Path) -> None:
        lines = (folder / name).read_bytes().splitlines()
        lines[number - 1] = line if isinstance(line, bytes) else line.encode()
        (folder / name).write_bytes(b"\n".join(lines) + b"\n")

    return apply


MISTAKES = {
    "no columns": (
        "csv",
        change("devset.csv", 1, "a,b"),
        r"devset.csv:1: expected a header with the column 'mr', found",
    ),
    "no ref": ("csv", change("testset_w_refs.csv", 1, "mr,text"), r"testset_w_refs.csv:1: .* column 'ref'"),
    "short row": ("csv", change("devset.csv", 3, "name[X]"), r"devset.csv:3: expected 2 columns, found 1"),
    "no slots": (
        "csv",
        change("devset.csv", 3, "Blue Spice,A pub ."),
        r"devset.csv:3: expected slots such as name\[X\]",
    ),
    "half a slot": ("csv", change("devset.csv", 3, '"name[X], near[Y",A .'), r"devset.csv:3: expected slots"),
    "no text": ("csv", change("devset.csv", 3, '"name[X]"," "'), r"devset.csv:3: the sentence is empty"),
    "open quote": ("csv", change("devset.csv", 3, '"name[X]","A'), r"devset.csv:\d+: not CSV"),
    "not UTF-8": ("csv", change("devset.csv", 3, b"name[X],caf\xe9"), r"devset.csv:3: not UTF-8 \(byte 0xe9\)"),
    "no file": ("csv", lambda folder: (folder / "devset.csv").unlink(), r"devset.csv: cannot be read"),
    "no bars": (
        "text",
        change("valid.txt", 2, "name : X | near : Y"),
        r"valid.txt:2: expected a meaning representation, \|\|",
    ),
    "no colon": ("text", change("valid.txt", 2, "name X||A pub . "), r"valid.txt:2: expected slots such as name : X"),
    "no rows": ("text", lambda folder: (folder / "test.txt").write_text(""), r"E2E test has no rows"),
    "nothing": ("text", lambda folder: [file.unlink() for file in folder.iterdir()], r"has neither trainset.csv"),
    "no folder": ("text", shutil.rmtree, r"does not exist; name the folder that holds trainset.csv"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_with_its_place(mistake, tmp_path):
    form, spoil, message = MISTAKES[mistake]
    folder = {"csv": csv_folder, "text": text_folder}[form](tmp_path / "data")
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        FolderSource(folder).load(TASK)
    assert "\n" not in str(caught.value)


# ---- tokens and masks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(words())


@pytest.fixture
def splits(tmp_path):
    return FolderSource(text_folder(tmp_path / "text")).load(TASK)


@pytest.mark.parametrize("form", LINEARISATIONS)
def test_a_row_is_context_end_sentence_end(splits, tokenizer, form):
    tokens = encode(splits, tokenizer, 96, form, f"hash-{form}")["train"]
    for row, (mr, sentence) in enumerate(splits["train"].texts):
        ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
        context = LINEARISATIONS[form](read_authors_mr(mr))
        assert ids == tokenizer.encode(f"{context} <|endoftext|> {sentence} <|endoftext|>")
        assert ids[tokens.labels[row] - 1] == 0 and tokens.labels[row] == len(tokenizer.encode(context)) + 1


def test_only_the_sentence_and_its_end_are_targets():
    """Two rows by hand: contexts [5 6 0] and [7 0], sentences [8 9 0] and [4 0]."""
    ids = np.array([5, 6, 0, 8, 9, 0, 7, 0, 4, 0], np.int32)
    tokens = Tokens(ids, np.array([0, 6, 10]), np.array([3, 2]))
    batch = TargetRows(tokens, 0, [8])[np.array([0, 1]), np.array([1.0, 0.5], np.float32)]
    assert batch["input_ids"].tolist() == [[5, 6, 0, 8, 9, 0, 0, 0], [7, 0, 4, 0, 0, 0, 0, 0]]
    assert batch["targets"].tolist() == [8, 9, 0, 4, 0]
    assert batch["positions"].tolist() == [2, 3, 4, 8 + 1, 8 + 2]  # the tokens that predict them
    assert batch["weights"].tolist() == [1.0, 1.0, 1.0, 0.5, 0.5] and "labels" not in batch


def test_a_batch_weighs_every_target_alike(splits, tokenizer):
    """Over two ranks the weights of a global batch are 2 / its targets each, in the last, smaller batch too."""
    tokens = encode(splits, tokenizer, 96, "authors", "hash")
    data = E2EDataModule(tokens, ("validation",), 0, batch_size=8, eval_batch_size=8, max_length=96)
    ranks = []
    for rank in (0, 1):
        data._place = lambda rank=rank: (rank, 2)
        ranks.append(list(data.train_dataloader()))
    for first, second in zip(*ranks, strict=True):
        weights = np.concatenate([first["weights"], second["weights"]])
        real_ones = weights[weights > 0]
        assert np.allclose(real_ones, 2 / len(real_ones))
    data._place = lambda: (0, 1)
    (loader,) = data.val_dataloader()
    assert sum(int(batch["weights"].sum()) for batch in loader) == int(
        (tokens["validation"].lengths - tokens["validation"].labels).sum()
    )


def test_a_context_that_fills_the_row_is_named(splits, tokenizer):
    with pytest.raises(UserError, match=r"of train row \d+ fills max_length 12: raise --max_length"):
        encode(splits, tokenizer, 12, "authors", "hash")


def test_inputs_are_grouped_by_meaning_representation(splits, tokenizer):
    test = inputs_of(splits["test"], tokenizer, "authors")
    assert len(test.mrs) == 4 and [len(group) for group in test.references] == [8, 8, 8, 6]
    assert [text for group in test.references for text in group] == [text for _, text in splits["test"].texts]


# ---- the generated set --------------------------------------------------------------------------------------------

CUES = {  # words one of which a sentence must have for a slot's value
    ("price", "cheap"): "cheap|low - priced|low prices", ("price", "moderate"): "moderate|average prices",
    ("price", "high"): "high prices|expensive|high - priced|range is high",
    ("customer rating", "low"): "low rated|low customer rating|poor reviews",
    ("customer rating", "average"): "average rated|average customer|average reviews",
    ("customer rating", "high"): "highly rated|high customer|good reviews",
    ("customer rating", "1 out of 5"): "1 star|1 out of 5", ("customer rating", "3 out of 5"): "3 star|3 out of 5",
    ("customer rating", "5 out of 5"): "5 star|5 out of 5",
    ("family friendly", "yes"): "family friendly|child friendly|children are welcome|whole family",
    ("family friendly", "no"): "not family friendly|adults only|not welcome", ("food", "Fast food"): "fast food",
    ("area", "city centre"): "city centre|centre of the city",
}  # fmt: skip


def test_the_generated_sentences_leave_nothing_out_and_vary():
    made = EmbeddedSource().load(TASK)
    for split in made.values():
        for mr, text in split.texts:
            for slot, value in read_authors_mr(mr):
                assert re.search(CUES.get((slot, value), re.escape(value)), text, re.I), (mr, text)
    groups: dict[str, set[str]] = {}
    for mr, text in made["test"].texts:
        groups.setdefault(mr, set()).add(text)
    assert np.mean([len(texts) for texts in groups.values()]) > 6  # of 8
    everywhere = [set(mr for mr, _ in split.texts) for split in made.values()]
    assert not (everywhere[0] & everywhere[1]) and not (everywhere[0] & everywhere[2])


def test_the_small_gpt2_knows_every_word_and_is_small():
    from transformers import AutoTokenizer

    from modules.embedded import GPT2

    tokenizer = AutoTokenizer.from_pretrained(GPT2)
    texts = {text for split in EmbeddedSource().load(TASK).values() for row in split.texts for text in row}
    assert tokenizer.unk_token_id not in {i for ids in tokenizer(sorted(texts))["input_ids"] for i in ids}
    assert tokenizer.decode(tokenizer.encode("The £ 20 - 25 .")) == "The £ 20 - 25 ."
    assert sum(file.stat().st_size for file in GPT2.iterdir()) < 5e6


def test_the_corpus_and_the_restaurants_are_the_same_on_every_python():
    import hashlib

    from modules.embedded.prose import documents

    prose = hashlib.sha256("\n".join(documents(0, 0)).encode()).hexdigest()
    assert (prose[:12], EmbeddedSource().hash(TASK)[:12]) == FINGERPRINTS


FINGERPRINTS = ("cd3f60563095", "d9b9b0b2ff35")


# ---- the Hub ------------------------------------------------------------------------------------------------------

CODE = """
from modules.benchmarks.e2e import E2E, TASK
from modules.benchmarks.e2e.sources import HubSource
source = HubSource()
splits = source.load(TASK)
print(json.dumps([source.name, source.hash(TASK), source.sizes]), E2E.hub_cached())
attempt(HubSource("tiny/nosuch").load, TASK)
attempt(HubSource("tiny/other").load, TASK)
"""


def as_parquet(columns: tuple[str, str]) -> dict[str, bytes]:
    import datasets

    files = {}
    for split, rows in pairs().items():
        table = {
            columns[0]: [LINEARISATIONS["challenge"](slots) for slots, _ in rows],
            columns[1]: [t for _, t in rows],
        }
        datasets.Dataset.from_dict(table).to_parquet(buffer := io.BytesIO())
        files[f"default/{split}/0000.parquet"] = buffer.getvalue()
    data_files = [{"split": split, "path": f"default/{split}/*"} for split in pairs()]
    files["README.md"] = (
        f"---\nconfigs: {json.dumps([{'config_name': 'default', 'data_files': data_files}])}\n---\n".encode()
    )
    return files


def test_the_hub(tmp_path):
    """The converted branch of the real repository's layout; then from the cache, with the server gone."""
    repos = {
        ("datasets", REPO): as_parquet(("meaning_representation", "human_reference")),
        ("datasets", "tiny/other"): as_parquet(("mr", "text")),
    }
    with HubServer(repos, revision=REVISION) as server:
        online = in_new_process(CODE, server.url, tmp_path)
        commit = server.commit(("datasets", REPO))
    local = FolderSource(csv_folder(tmp_path / "csv"))
    local.load(TASK)
    name, content, sizes = json.loads(online[0].rpartition(" ")[0])
    assert (name, content, sizes) == (f"{REPO}@{commit[:8]}", local.hash(TASK), local.sizes)
    errors = [json.loads(line)[0] for line in online[1:]]
    assert errors[0].startswith("data set 'tiny/nosuch' cannot be loaded") and "no column 'meaning_repr" in errors[1]
    offline = in_new_process(CODE.split("attempt")[0], server.url, tmp_path)
    assert offline[0].rpartition(" ")[0] == online[0].rpartition(" ")[0]
