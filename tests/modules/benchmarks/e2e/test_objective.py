"""E2E's loss, beam search and parameter counts, against independent computations."""

import itertools
import math

import pytest
import torch

from modules.backbones.loading import load_language_model
from modules.benchmarks.e2e import E2E, TASK
from modules.benchmarks.e2e.data import E2EDataModule, encode, inputs_of
from modules.benchmarks.e2e.decode import Decoding, NoRepeatInOutput, decode, generate, low_precision
from modules.benchmarks.e2e.objective import Generation
from modules.benchmarks.e2e.settings import E2ESettings
from modules.benchmarks.e2e.sources import FolderSource
from tests.support.e2e_tiny import pairs, text_folder, tiny_gpt2, words
from tests.support.tiny import train
from variants import attach
from variants.registry import BUILT_IN, resolve
from variants.sites.architectures import head_parameters


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tiny_gpt2(tmp_path_factory.mktemp("models") / "tiny-gpt2")
    model, tokenizer, _ = load_language_model(folder, E2E.embedded())
    return model.eval(), tokenizer


@pytest.fixture
def fresh(tiny, tmp_path):
    """A copy that a test may change."""
    import copy

    return copy.deepcopy(tiny[0]), tiny[1]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return FolderSource(text_folder(tmp_path_factory.mktemp("data") / "text")).load(TASK)


def objective(splits, tokenizer, smoothing=0.1) -> Generation:
    decoding = Decoding(3, 0.9, 4, 12, 4, (0,), 0)
    inputs = {name: inputs_of(splits[name], tokenizer, "authors") for name in ("validation", "test")}
    return Generation(inputs, tokenizer, decoding, smoothing, "best")


def batches(splits, tokenizer, size=8):
    data = E2EDataModule(encode(splits, tokenizer, 96, "authors", "h"), ("validation",), 0, size, size, max_length=96)
    return list(data.train_dataloader())


# ---- loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_full_logits_and_a_mask(tiny, splits, smoothing):
    """As microsoft/LoRA's model.py has it: every position's logits, nll and smoothing, times a mask, averaged."""
    model, tokenizer = tiny
    module = objective(splits, tokenizer, smoothing)
    for batch in batches(splits, tokenizer):
        losses, weights, _ = module.losses(model, batch, training=True)
        ours = (weights * losses).sum()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["input_ids"][:, 1:]
        said = logits.log_softmax(-1)
        nll = -said.gather(-1, labels[..., None])[..., 0]
        smooth = (1 - smoothing) * nll - smoothing * said.mean(-1)
        separator = (batch["input_ids"] == 0).int().argmax(1)  # the first end token closes the context
        place = torch.arange(labels.shape[1])
        mask = (place >= separator[:, None]) & (batch["attention_mask"][:, 1:] == 1)
        assert torch.allclose(ours, (smooth * mask).sum() / mask.sum(), atol=1e-6)
        plain = module.losses(model, batch, training=False)[0]  # smoothing is for training
        assert torch.allclose(plain, nll[mask], atol=1e-5)


def test_no_logits_are_computed_where_there_is_no_target(tiny, splits):
    model, tokenizer = tiny
    batch = batches(splits, tokenizer)[0]
    rows = []
    handle = model.lm_head.register_forward_hook(lambda _, args, out: rows.append(args[0].shape[:-1].numel()))
    objective(splits, tokenizer).losses(model, batch, training=True)
    handle.remove()
    assert rows == [len(batch["targets"])] and rows[0] < batch["attention_mask"].sum()


@pytest.mark.parametrize("variant", BUILT_IN)
def test_every_variant_trains_and_decodes_unchanged(fresh, splits, variant):
    """Every trained parameter gets a gradient, there is no head, and outputs come from the adapted model."""
    model, tokenizer = fresh
    adapted = attach(model, resolve(variant)(), seed=0)
    assert adapted.count()["head"] == 0
    module, batch = objective(splits, tokenizer), batches(splits, tokenizer)[0]
    before = decode(model, module.inputs["test"].ids, tokenizer, module.decoding.greedy())
    trained = adapted.trained()
    if not trained:
        assert variant == "head"
        return
    losses, weights, _ = module.losses(model.train(), batch, training=True)
    (weights * losses).sum().backward()
    assert all(parameter.grad is not None for parameter in trained.values())
    train(trained, seed=0)
    train(trained, seed=1)
    assert decode(model, module.inputs["test"].ids, tokenizer, module.decoding.greedy()) != before


def test_a_language_models_own_output_embedding_is_no_fresh_head():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=False)
    assert head_parameters(GPT2LMHeadModel(config)) == []


@pytest.mark.parametrize(
    "shape, variant, count",
    [
        ((1024, 24, 16), "lora", 393_216),  # 24 layers x (q, v) x (1024 + 1024) x 4; the paper prints 0.35M
        ((1280, 36, 20), "lora", 737_280),  # the paper prints 0.77M
        ((1024, 24, 16), "vera", 98_304),  # 48 x (1024 + 1024); the paper prints 0.098M
    ],
)
def test_trainable_parameters_of_the_papers_models(shape, variant, count):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=shape[0], n_layer=shape[1], n_head=shape[2]))
    options = {"lora": {"r": 4}, "vera": {"r": 1024}}[variant]
    adapted = attach(model, resolve(variant)(target="attn-qv", **options), seed=0)
    assert adapted.count()["adapter"] == count and adapted.count()["head"] == 0


# ---- decoding -----------------------------------------------------------------------------------------------------


def every_hypothesis(model, context, decoding):
    """(score, tokens) of all outputs of at most `max_new_tokens`, by plain forward passes without cache or padding."""

    def grow(tokens, total):
        if tokens and (tokens[-1] in decoding.stop or len(tokens) == decoding.max_new_tokens):
            yield total / len(tokens) ** decoding.length_penalty, tokens
            return
        with torch.no_grad():
            said = model(torch.tensor([context + tokens])).logits[0, -1].log_softmax(-1)
        n = decoding.no_repeat_ngram
        seen = {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)} if n else set()
        banned = [t for t in range(len(said)) if n and tuple([*tokens, t][-n:]) in seen]
        if banned:
            said[banned] = -math.inf
            said = said.log_softmax(-1)  # what is left shares the probability
        for token, value in enumerate(said.tolist()):
            if value > -math.inf:
                yield from grow([*tokens, token], total + value)

    return sorted(grow([], 0.0), key=lambda found: -found[0])


@pytest.mark.parametrize("length_penalty, stop", [(0.8, (0,)), (0.0, (0,)), (2.0, (0, 3))])
def test_a_beam_as_wide_as_the_space_finds_the_best_hypothesis(tmp_path, length_penalty, stop):
    """With vocabulary 4 and four tokens, 4^4 beams miss nothing: score, ban and stop tokens are as defined."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=4, n_positions=16, n_embd=8, n_layer=1, n_head=2, initializer_range=1.0)
    ).eval()
    decoding = Decoding(256, length_penalty, 2, 4, 2, stop, 0)
    contexts = [[1, 2, 1, 2, 0], [2, 0], [1, 1, 3, 0]]
    found = generate(model, contexts, decoding)
    for context, output in zip(contexts, found, strict=True):
        (score, best), *_ = every_hypothesis(model, context, decoding)
        assert output == [token for token in best if token not in stop], (score, best)


def test_the_ban_looks_at_the_output_alone(tmp_path):
    """A model that copies its input may say a name of the input, which generate's own option forbids."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    found = 0
    for seed in range(20):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=5, n_positions=32, n_embd=8, n_layer=1, n_head=2, initializer_range=1.0)
        ).eval()
        context = [1, 2, 3, 4, 1, 3, 2, 4, 0]
        (output,) = generate(model, [context], Decoding(1, 1.0, 2, 8, 1, (0,), 0))
        bigrams = set(itertools.pairwise(output))
        assert len(bigrams) == len(output) - 1 or len(output) < 2
        found += bool(bigrams & set(itertools.pairwise(context)))
    assert found


@pytest.mark.parametrize("beams", [1, 4])
def test_a_batch_gives_what_each_context_gives_alone(tiny, splits, beams):
    model, tokenizer = tiny
    contexts = inputs_of(splits["train"], tokenizer, "authors").ids
    decoding = Decoding(beams, 0.9, 4, 12, 8, (0,), 0)
    together = generate(model, contexts, decoding)
    assert len({len(context) for context in contexts}) > 2
    assert together == [generate(model, [context], decoding)[0] for context in contexts]


def test_decode_keeps_the_order_and_the_mode(fresh, splits):
    model, tokenizer = fresh
    contexts = inputs_of(splits["train"], tokenizer, "authors").ids
    decoding = Decoding(1, 1.0, 4, 12, 3, (0,), 0)
    texts = decode(model.train(), contexts, tokenizer, decoding)
    assert model.training
    expected = [tokenizer.decode(generate(model.eval(), [context], decoding)[0]) for context in contexts]
    assert texts == [" ".join(text.split()) for text in expected]


def test_what_was_decoded_is_not_decoded_again(fresh, splits, tmp_path, monkeypatch):
    from modules.benchmarks.e2e import decode as module

    model, tokenizer = fresh
    contexts = inputs_of(splits["train"], tokenizer, "authors").ids
    decoding = Decoding(1, 1.0, 4, 12, 3, (0,), 0)
    whole = decode(model, contexts, tokenizer, decoding)
    calls = []

    def spy(model, batch, decoding):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(batch)
        return generate(model, batch, decoding)

    monkeypatch.setattr(module, "generate", spy)
    with pytest.raises(KeyboardInterrupt):
        decode(model, contexts, tokenizer, decoding, tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    (tmp_path / "kept" / "1.json").write_text("[[1,")  # half a file: that batch is decoded again
    calls.clear()
    monkeypatch.setattr(module, "generate", lambda *a: calls.append(a[1]) or generate(*a))
    assert decode(model, contexts, tokenizer, decoding, tmp_path / "kept") == whole
    assert len(calls) == math.ceil(len(contexts) / 3) - 1


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_too_large_for_the_gpu_is_halved_until_it_fits(fresh, splits, monkeypatch, capsys, size):
    """With two adapters each must get its own outputs back: here the second's are those of the contexts reversed."""
    from modules.benchmarks.e2e import decode as module

    model, tokenizer = fresh
    contexts = inputs_of(splits["train"], tokenizer, "authors").ids[:7]
    decoding = Decoding(1, 1.0, 4, 12, 7 * size, (0,), 0)

    def each(model, batch, decoding):
        rows = len(batch) // size
        return [*generate(model, batch[:rows], decoding), *(list(reversed(c)) for c in batch[rows:])]

    def crowded(model, batch, decoding):
        if len(batch) > 2 * size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return each(model, batch, decoding)

    monkeypatch.setattr(module, "generate", each)
    whole = module.decode_each(model, contexts, tokenizer, decoding, size)
    monkeypatch.setattr(module, "generate", crowded)
    assert module.decode_each(model, contexts, tokenizer, decoding, size) == whole
    assert "too little memory on the GPU for 7 inputs at once; now 3" in capsys.readouterr().out
    monkeypatch.setattr(module, "generate", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("one")))
    with pytest.raises(torch.OutOfMemoryError, match="one"):
        module.decode_each(model, contexts, tokenizer, decoding, size)


def test_the_stop_tokens_of_the_official_code():
    """GPT-2's tokenizer has the empty line as a token of its own; a word-level one has none."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    from modules.pretraining.causal_lm import word_tokenizer

    core = ByteLevelBPETokenizer()
    core.train_from_iterator(["a\n\n"] * 9, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    bpe = PreTrainedTokenizerFast(
        tokenizer_object=core._tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    settings = E2ESettings(lr=1e-3, batch_size=8, epochs=1, max_length=64)
    assert Decoding.of(settings, bpe).stop == (0, bpe.convert_tokens_to_ids("ĊĊ"))
    assert Decoding.of(settings, word_tokenizer(["a"])).stop == (0,)


def test_low_precision_spares_the_output_embedding(fresh):
    model, _ = fresh
    before = model.lm_head.forward
    kinds = {}

    def note(module, args, out):
        kinds["head" if module is model.lm_head else "map"] = out.dtype

    handles = [module.register_forward_hook(note) for module in (model.lm_head, model.transformer.h[0].mlp.c_fc)]
    with low_precision(model, torch.device("cpu"), on=True):
        model(torch.tensor([[1, 2, 3]]))
    assert kinds == {"head": torch.float32, "map": torch.bfloat16} and model.lm_head.forward == before
    for handle in handles:
        handle.remove()


def test_the_tiny_vocabulary_is_whole():
    assert len(words()) > 60 and all(pairs().values())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_output_repeats_an_n_gram_as_transformers_has_it(size):
    from transformers import NoRepeatNGramLogitsProcessor

    rng, start = torch.Generator().manual_seed(size), 5
    for length in range(1, 14):
        ids = torch.randint(3, (20, start + length), generator=rng)  # three tokens: repetitions are sure to come
        scores = torch.randn(20, 7, generator=rng)
        expected = NoRepeatNGramLogitsProcessor(size)(ids[:, start:], scores.clone())
        assert torch.equal(NoRepeatInOutput(size, start)(ids, scores), expected)


def test_what_stands_behind_a_row_does_not_change_its_loss(tiny, splits):
    """The model is given no mask: padding comes last, where no token of the row looks."""
    model, tokenizer = tiny
    module = objective(splits, tokenizer)
    batch = batches(splits, tokenizer)[0]
    rows = batch["attention_mask"] == 0
    assert rows.any()
    other = batch | {"input_ids": batch["input_ids"].masked_fill(rows, 7)}
    with torch.no_grad():
        first, second = (module.losses(model, b, training=True)[0] for b in (batch, other))
    assert torch.equal(first, second)
