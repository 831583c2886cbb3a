"""Beam search against every hypothesis, what a batch gives against each context alone, and outputs that are kept."""

import gc
import itertools
import math
import weakref
from dataclasses import replace

import pytest
import torch

from modules.benchmarks.causal.decode import Decoding, NoRepeatInOutput, decode, generate, low_precision
from modules.benchmarks.e2e.data import inputs_of
from modules.benchmarks.e2e.settings import E2ESettings


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
    from modules.benchmarks.causal import decode as module

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
    (tmp_path / "kept" / "12-1.json").write_text("[[1,")  # half a file: that batch is decoded again
    calls.clear()
    monkeypatch.setattr(module, "generate", lambda *a: calls.append(a[1]) or generate(*a))
    assert decode(model, contexts, tokenizer, decoding, tmp_path / "kept") == whole
    assert len(calls) == math.ceil(len(contexts) / 3) - 1


@pytest.mark.parametrize("size", [1, 2])
def test_outputs_that_have_not_ended_go_on_in_batches_of_their_own(fresh, splits, monkeypatch, tmp_path, size):
    """Of two adapters' outputs some have ended that share a row with one that goes on; the second's contexts here are
    the first's without their first token."""
    from modules.benchmarks.causal import decode as module

    model, tokenizer = fresh
    contexts = inputs_of(splits["train"], tokenizer, "authors").ids[:9]
    free = Decoding(1, 1.0, 0, 16, 100, (), 0)
    likely = [generate(model, [context], free)[0][5] for context in contexts[::3]]
    decoding = replace(free, stop=tuple(set(likely)), batch_size=4 * size)
    expected = []
    for k in range(size):
        outputs = [generate(model, [context[k:]], decoding)[0] for context in contexts]
        expected.append([" ".join(tokenizer.decode(output).split()) for output in outputs])
        assert len({len(output) for output in outputs}) > 2
    seen = []

    def each(model, batch, decoding):
        seen.append(decoding.max_new_tokens)
        half = len(batch) // size
        return generate(model, [c[k:] for k in range(size) for c in batch[k * half : (k + 1) * half]], decoding)

    monkeypatch.setattr(module, "generate", each)
    monkeypatch.setattr(module, "FIRST", 4)
    assert module.decode_each(model, contexts, tokenizer, decoding, size, tmp_path) == expected
    assert seen.count(4) > seen.count(8) > 0
    seen.clear()
    assert module.decode_each(model, contexts, tokenizer, decoding, size, tmp_path) == expected
    assert not seen


def test_only_greedy_outputs_without_a_ban_go_on_in_stages():
    """At the first limit, and again whenever they are twice as long; what is shorter than the first has one stage."""
    from modules.benchmarks.causal.decode import FIRST, _limits

    greedy = Decoding(1, 1.0, 0, 5 * FIRST, 4, (0,), 0)
    assert list(_limits(greedy)) == [FIRST, 2 * FIRST, 4 * FIRST, 5 * FIRST]
    for most in (1, FIRST):
        assert list(_limits(replace(greedy, max_new_tokens=most))) == [most]
    for whole in (replace(greedy, beams=2), replace(greedy, no_repeat_ngram=4)):
        assert list(_limits(whole)) == [5 * FIRST]


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_too_large_for_the_gpu_is_halved_until_it_fits(fresh, splits, monkeypatch, capsys, size):
    """With two adapters each must get its own outputs back: here the second's are those of the contexts reversed."""
    from modules.benchmarks.causal import decode as module

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


def test_a_failed_try_holds_nothing_and_small_parts_are_no_rule(fresh, splits, monkeypatch):
    """The GPU is full for three tries, and has room again: the sizes double, and the next batch is tried whole. Of a
    failed try nothing is in memory in the next one, though its error is part of a cycle."""
    from modules.benchmarks.causal import decode as module

    model, tokenizer = fresh
    contexts = 2 * inputs_of(splits["train"], tokenizer, "authors").ids[:8]
    decoding = Decoding(1, 1.0, 4, 12, 8, (0,), 0)
    whole = module.decode(model, contexts, tokenizer, decoding)
    sizes, held = [], []

    def crowded(model, batch, decoding):
        assert not [tensor for tensor in held if tensor() is not None]
        sizes.append(len(batch))
        if len(sizes) > 3:
            return generate(model, batch, decoding)
        cache = torch.zeros(3)
        held.append(weakref.ref(cache))
        error = torch.OutOfMemoryError("CUDA out of memory")  # in a name of the frame that its traceback holds
        raise error

    monkeypatch.setattr(module, "generate", crowded)
    gc.disable()  # what is freed is freed on purpose
    try:
        assert module.decode(model, contexts, tokenizer, decoding) == whole
    finally:
        gc.enable()
    assert sizes == [8, 4, 2, 1, 1, 2, 4, 8] and len(held) == 3


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


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_output_repeats_an_n_gram_as_transformers_has_it(size):
    from transformers import NoRepeatNGramLogitsProcessor

    rng, start = torch.Generator().manual_seed(size), 5
    for length in range(1, 14):
        ids = torch.randint(3, (20, start + length), generator=rng)  # three tokens: repetitions are sure to come
        scores = torch.randn(20, 7, generator=rng)
        expected = NoRepeatNGramLogitsProcessor(size)(ids[:, start:], scores.clone())
        assert torch.equal(NoRepeatInOutput(size, start)(ids, scores), expected)
