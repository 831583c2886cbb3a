"""Attention within the rows of packed batches is PyTorch's, on a CPU and in each of a GPU's ways."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules import row_attention
from modules.packed import Layout
from modules.row_attention import Padded, Places, Sequences, attention, places_of
from tests.models import MODELS

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: its attention of packed rows")


def attention_of_rows(query, key, value, lengths: list[int], heads: int, scale: float | None = None) -> torch.Tensor:
    """PyTorch's, row after row; where there is one query for each row, that one."""
    rows = []
    queries = query.split(lengths if len(query) == len(key) else [1] * len(lengths))
    for q, k, v in zip(queries, key.split(lengths), value.split(lengths), strict=True):
        q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
        rows.append(F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1).flatten(1))
    return torch.cat(rows)


@pytest.mark.parametrize("first", [False, True])
def test_attention_within_rows_is_pytorchs(first):
    places, lengths = Places.of(MASK.sum(1), heads=2), MASK.sum(1).tolist()
    tokens = [torch.randn(sum(lengths), 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    tokens[0] = tokens[0].detach()[: len(MASK) if first else None].requires_grad_()

    def own(*tokens: torch.Tensor) -> torch.Tensor:
        return attention(*tokens, places, 3**-0.5)

    torch.testing.assert_close(own(*tokens), attention_of_rows(*tokens, lengths, heads=2))
    assert torch.autograd.gradcheck(own, tokens)


def test_dropout_leaves_weights_out_and_scales_the_others():
    places, count = Places.of(MASK.sum(1), heads=2), int(MASK.sum())
    torch.manual_seed(0)
    tokens = [torch.randn(count, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def dropped(*tokens: torch.Tensor, seed: int = 0) -> torch.Tensor:
        torch.manual_seed(seed)
        return attention(*tokens, places, 1.0, dropout=0.25)

    assert torch.autograd.gradcheck(dropped, tokens)
    ones = torch.ones_like(tokens[2])  # one value for all: 1 but for dropout
    found = torch.stack([dropped(*tokens[:2], ones, seed=seed).detach() for seed in range(400)])
    assert found.std(0).min() > 0.1
    torch.testing.assert_close(found.mean(0), ones, atol=0.12, rtol=0)


LENGTHS = np.array([[3, 70], [40, 1]])
HEADS, WIDTH, SCALE = 2, 64, 0.2
WAYS = [
    pytest.param("padded", torch.float64, "cpu", id="padded-cpu"),
    *(
        pytest.param(way, dtype, "cuda", marks=needs_gpu, id=f"{way}-{str(dtype)[6:]}")
        for way, dtype in (
            ("padded", torch.float32),
            ("padded", torch.bfloat16),
            ("efficient", torch.float32),
            ("efficient", torch.bfloat16),
            ("flash", torch.bfloat16),
        )
    ),
]


def placed(way: str, dtype: torch.dtype, device: str):
    """Two parts of two rows and what is left over, and queries (of all, of first tokens), keys and values."""
    layout = Layout.of(LENGTHS, longest=80, multiple=64)
    n = layout.filled.shape[1]
    assert n == 128 and layout.ends.shape == (2, 3) and layout.ends[1, 1] == 41 and layout.columns.shape == (1, 128)
    starts, ends, columns = (torch.from_numpy(x).to(device) for x in (layout.starts, layout.ends, layout.columns))
    if way == "padded":
        places = Padded.of(starts, ends[:, :2], n, columns[0], HEADS, dtype)
    else:
        places = Sequences.of(starts, ends, n, HEADS, 80, way == "flash")
    generator = torch.Generator(device).manual_seed(0)

    def draw(many: int) -> torch.Tensor:
        return torch.randn((2, many, WIDTH), generator=generator, device=device).to(dtype).requires_grad_()

    return places, torch.from_numpy(layout.filled).to(device), [draw(n), draw(2), draw(n), draw(n)]


@pytest.mark.parametrize(("way", "dtype", "device"), WAYS)
@pytest.mark.parametrize("first", [False, True])
def test_attention_of_packed_rows_is_pytorchs(first, way, dtype, device):
    """Values and gradients; those of what is unused are numbers, and none where no row sees it."""
    places, real, (query, asked, *others) = placed(way, dtype, device)
    tokens = [asked if first else query, *others]
    found = places.attend(*tokens, scale=SCALE, dropout=0.0, first=first)
    assert torch.isfinite(found).all()
    flat = [(x.flatten(0, 1) if len(x[0]) == 2 else x[real]).double() for x in tokens]
    expected = attention_of_rows(*flat, LENGTHS.ravel().tolist(), HEADS, SCALE)
    own = (found.flatten(0, 1) if first else found[real]).double()
    close = {"rtol": 0.03, "atol": 0.03} if dtype == torch.bfloat16 else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(own, expected, **close)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    mine = torch.autograd.grad((own * weight).sum(), tokens)
    theirs = torch.autograd.grad((expected * weight).sum(), tokens)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize(("way", "dtype", "device"), [way for way in WAYS if way.values[0] != "efficient"])
@pytest.mark.parametrize("first", [False, True])
def test_the_backward_pass_drops_what_the_forward_pass_dropped(first, way, dtype, device):
    """What is put out is linear in the values, whatever is dropped: sum(gradient * values) is the sum put out. And
    dropout has an expectation and a spread, of its own in each head and row."""
    places, real, (query, asked, key, value) = placed(way, dtype, device)
    tokens = [asked if first else query, key]
    found = places.attend(*tokens, value, scale=SCALE, dropout=0.25, first=first)
    if not first:
        found = found * real.unsqueeze(-1)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    put_out = (found.double() * weight).sum()
    (gradient,) = torch.autograd.grad(put_out, value)
    rel, close = (0.02, 0.5) if dtype == torch.bfloat16 else (1e-4, 1e-4)
    assert (gradient.double() * value.double()).sum().item() == pytest.approx(put_out.item(), rel=rel, abs=close)
    ones = torch.ones_like(value)
    drawn = [places.attend(*tokens, ones, scale=SCALE, dropout=0.25, first=first).detach() for _ in range(200)]
    drawn = torch.stack([x.flatten(0, 1) if first else x[real] for x in drawn]).double()
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    long = drawn[:, 1 if first else 3, :: WIDTH // HEADS]  # a token of the row of 70: its two heads
    assert long.std(0).min() > 0.01 and torch.corrcoef(long.T)[0, 1].abs() < 0.5


def test_memory_efficient_attention_one_behind_the_other_refuses_dropout():
    places, _, (query, _, key, value) = placed("efficient", torch.float32, "cpu")
    with pytest.raises(ValueError, match="has no dropout"):
        places.attend(query, key, value, scale=SCALE, dropout=0.1, first=False)


@pytest.mark.parametrize(
    ("training", "dropout", "dtype", "tokens", "expected"),
    [
        (True, 0.1, torch.bfloat16, 128, Padded),
        (True, 0.1, torch.float32, 640, Padded),
        (True, 0.1, torch.bfloat16, 640, Sequences),  # flash
        (True, 0.0, torch.bfloat16, 128, Sequences),
        (False, 0.1, torch.float32, 128, Sequences),
    ],
)
def test_what_a_gpu_computes_with(training, dropout, dtype, tokens, expected, monkeypatch):
    """Rows of 16 tokens are short, rows of 80 long. Flash attention is there for 16-bit numbers."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which knows no tensors without memory
    backbone = MODELS["roberta"]().base_model.to(dtype).train(training)
    for block in backbone.encoder.layer:
        block.attention.self.dropout.p = dropout
    starts = torch.empty(1, 8, dtype=torch.int32, device="meta")
    ends, columns = starts.new_empty(1, 9), starts.new_empty(1, 128)
    places = places_of(starts, ends, columns, tokens, backbone, 128)
    assert type(places) is expected
    assert getattr(places, "flash", False) == (expected is Sequences and dtype == torch.bfloat16 and tokens == 640)


def test_what_attention_is_told_of_first_tokens():
    """Two parts of three rows and two pieces of what is unused; made in an evaluation, used in training."""
    with torch.inference_mode():
        asked = row_attention._asked(2, 5, 3, torch.device("cpu"))
    assert not asked.is_inference() and asked.dtype == torch.int32
    assert asked.tolist() == [0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6]
