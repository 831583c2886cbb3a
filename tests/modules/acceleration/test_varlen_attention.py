"""Attention within the rows of packed batches is PyTorch's, on a CPU and in each of a GPU's ways."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.acceleration import varlen_attention
from modules.acceleration.varlen_attention import Padded, Sequences, places_of
from modules.acceleration.varlen_cpu import Places, attention
from modules.data.packing import Layout
from tests.support.models import MODELS
from variants.acceleration.basics.policy import for_graph

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
needs_gpu = pytest.mark.gpu("its attention of packed rows")


def row_by_row(query, key, value, lengths: list[int], heads: int, attend) -> torch.Tensor:
    """Of each row what ``attend`` makes of its queries (all, or its first alone), keys and values (heads, T, d)."""
    rows = []
    queries = query.split(lengths if len(query) == len(key) else [1] * len(lengths))
    for parts in zip(queries, key.split(lengths), value.split(lengths), strict=True):
        q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in parts)
        rows.append(attend(q, k, v).transpose(0, 1).flatten(1))
    return torch.cat(rows)


@pytest.mark.parametrize("first", [False, True])
def test_attention_within_rows_is_pytorchs(first):
    places, lengths = Places.of(MASK.sum(1), heads=2), MASK.sum(1).tolist()
    tokens = [torch.randn(sum(lengths), 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    tokens[0] = tokens[0].detach()[: len(MASK) if first else None].requires_grad_()

    def own(*tokens: torch.Tensor) -> torch.Tensor:
        return attention(*tokens, places, 3**-0.5)

    torch.testing.assert_close(own(*tokens), row_by_row(*tokens, lengths, 2, F.scaled_dot_product_attention))
    assert torch.autograd.gradcheck(own, tokens)


@pytest.mark.slow
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


LENGTHS = [[3, 50], [40, 1]]
HEADS, WIDTH, SCALE, DROPOUT = 2, 128, 0.2, 0.25
interpreted = pytest.mark.skipif(
    torch.cuda.is_available() or importlib.util.find_spec("triton") is None, reason="needs Triton, and no GPU"
)
WAYS = [
    pytest.param("padded", torch.float64, "cpu", id="padded-cpu"),
    pytest.param("short", torch.float32, "cpu", id="short-interpreted", marks=interpreted),
    *(
        pytest.param(way, dtype, "cuda", marks=needs_gpu, id=f"{way}-{str(dtype)[6:]}")
        for way, dtype in (
            ("padded", torch.float32),
            ("short", torch.float32),
            ("short", torch.float16),
            ("short", torch.bfloat16),
            ("flash", torch.bfloat16),
        )
    ),
]


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Case:
    """Two parts of two rows and what is left over, and queries (of all, or of first tokens), keys and values."""

    def __init__(self, way: str, dtype: torch.dtype, device: str, first: bool) -> None:
        layout = Layout.of(np.array(LENGTHS), multiple=64)
        n = layout.filled.shape[1]
        assert n == 64 and layout.ends.shape == (2, 3) and layout.ends[1, 1] == 41 and layout.columns.shape == (1, 64)
        starts, ends, columns = (torch.from_numpy(x).to(device) for x in (layout.starts, layout.ends, layout.columns))
        if way == "padded":
            self.places = Padded.of(starts, ends[:, :2], n, columns[0], HEADS, dtype)
        else:
            self.places = Sequences.of(starts, ends, n, HEADS, 64, way == "flash")
        real = torch.from_numpy(layout.filled).to(device)
        self.of_queries = slice(None) if first else real
        self.first, self.real = first, real
        every = draw((2, n, 3 * WIDTH), 0).to(device, dtype)  # one product's output
        query, self.key, self.value = (x.detach().requires_grad_() for x in every.split(WIDTH, -1))
        asked = draw((2, 2, WIDTH), 1).to(device, dtype)
        self.query = asked.requires_grad_() if first else query

    def found(self, dropout: float = 0.0) -> torch.Tensor:
        """(queries of real tokens, WIDTH)."""
        tokens = (x.flatten(0, 1) for x in (self.query, self.key, self.value))
        found = self.places.attend(*tokens, scale=SCALE, dropout=dropout, first=self.first).view(self.query.shape)
        assert torch.isfinite(found).all()
        return found[self.of_queries].flatten(0, -2).double()

    def expected(self, kept: torch.Tensor | None = None) -> torch.Tensor:
        """What `found` is to be, written out in fp64, with what dropout multiplies weights (queries, HEADS, 64) by."""
        query = self.query[self.of_queries].flatten(0, -2)
        factors = iter((torch.ones(len(query), HEADS, 64) if kept is None else kept).to(query.device))

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            weights = torch.softmax(q @ k.transpose(1, 2) * SCALE, -1)
            factor = torch.stack([next(factors) for _ in range(q.shape[1])], 1)  # row after row
            return (weights * factor[..., : k.shape[1]]) @ v

        tokens = (x.double() for x in (query, self.key[self.real], self.value[self.real]))
        return row_by_row(*tokens, [length for part in LENGTHS for length in part], HEADS, attend)

    def agree(self, dtype: torch.dtype, found: torch.Tensor, expected: torch.Tensor) -> None:
        """Values and gradients; those of what is unused are numbers, and none where no row sees it."""
        low = {torch.bfloat16: 0.03, torch.float16: 0.005}
        close = {"rtol": low[dtype], "atol": low[dtype]} if dtype in low else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(found, expected, **close)
        weight = draw(expected.shape, 2).to(expected.device)
        tokens = self.query, self.key, self.value
        mine = torch.autograd.grad((found * weight).sum(), tokens)
        theirs = torch.autograd.grad((expected * weight).sum(), tokens)
        for a, b in zip(mine, theirs, strict=True):
            assert torch.isfinite(a).all()
            torch.testing.assert_close(a, b, **close)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "dtype", "device"), WAYS)
@pytest.mark.parametrize("first", [False, True])
def test_attention_of_packed_rows_is_what_it_is_row_by_row(first, way, dtype, device):
    case = Case(way, dtype, device, first)
    case.agree(dtype, case.found(), case.expected())


@pytest.mark.slow
@pytest.mark.parametrize(("way", "dtype", "device"), WAYS)
@pytest.mark.parametrize("first", [False, True])
def test_dropout_of_packed_rows(first, way, dtype, device):
    """The values are one for each token of a row, so that what is put out are the weights: some are 0, the others as
    much larger, drawn for each head, row and call; values and gradients are those of these weights."""
    torch.manual_seed(0)
    case = Case(way, dtype, device, first)
    ones = torch.zeros(2, 64, HEADS, WIDTH // HEADS, dtype=dtype, device=device)
    for part, lengths in enumerate(LENGTHS):
        for row, length in enumerate(lengths):
            for place in range(length):
                ones[part, sum(lengths[:row]) + place, :, place] = 1
    case.value = ones.flatten(2).requires_grad_()
    plain, found = case.expected().detach().unflatten(1, (HEADS, -1)), case.found(DROPOUT)
    dropped = found.detach().unflatten(1, (HEADS, -1))
    there = plain > 0
    kept = torch.where(dropped > 0, 1 / (1 - DROPOUT), 0.0).double()
    case.agree(dtype, found, case.expected(kept))
    again = torch.where(case.found(DROPOUT).detach().unflatten(1, (HEADS, -1)) > 0, 1 / (1 - DROPOUT), 0.0)
    many = 0.15 if first else 0.05
    assert kept[there].mean().item() == pytest.approx(1, abs=many)
    alike = (1 - DROPOUT) ** 2 + DROPOUT**2  # of what is drawn apart
    assert (kept == again)[there].double().mean().item() == pytest.approx(alike, abs=many)
    heads = (kept[:, 0] == kept[:, 1])[there[:, 0]]
    assert heads.double().mean().item() == pytest.approx(alike, abs=many)
    one, other = (kept[1], kept[2]) if first else (kept[3:43], kept[53:93])  # rows of 50 and of 40
    assert (one[..., :40] == other[..., :40]).double().mean().item() == pytest.approx(alike, abs=many)


@pytest.mark.parametrize(
    ("dtype", "tokens", "width", "programs", "expected"),
    [
        (torch.bfloat16, 128, 64, True, "short"),
        (torch.float32, 128, 64, True, "short"),
        (torch.float32, 640, 128, True, "short"),
        (torch.float32, 640, 128, False, "padded"),
        (torch.bfloat16, 640, 128, True, "flash"),
        (torch.bfloat16, 128, 256, True, "flash"),
        (torch.float32, 128, 256, True, "padded"),
        (torch.float64, 128, 64, True, "padded"),
        (torch.bfloat16, 128, 64, False, "flash"),
    ],
)
def test_what_a_gpu_computes_with(dtype, tokens, width, programs, expected, monkeypatch):
    """Rows of 16 tokens are short, rows of 80 long. Flash attention is there for 16-bit numbers."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which knows no tensors without memory
    monkeypatch.setattr(varlen_attention, "_has_programs", lambda *of: programs)
    backbone = MODELS["roberta"]().base_model.to(dtype)
    starts = torch.empty(1, 8, dtype=torch.int32, device="meta")
    ends, columns = starts.new_empty(1, 9), starts.new_empty(1, width)
    with for_graph():
        places = places_of(starts, ends, columns, tokens, backbone)
    found = "padded" if isinstance(places, Padded) else "flash" if places.flash else "short"
    assert found == expected
    if dtype == torch.bfloat16:  # what the host would start each time, but for much work
        assert places_of(starts, ends, columns, tokens, backbone).flash
        monkeypatch.setattr("variants.acceleration.basics.policy.LARGE", 0)
        assert places_of(starts, ends, columns, tokens, backbone).flash == places.flash


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


@needs_triton
def test_what_triton_cannot_is_said_once_and_goes_another_way(monkeypatch, recwarn):
    of = torch.device("cpu"), torch.float32, 64, 2, 16
    if not torch.cuda.is_available():  # it is interpreted
        assert varlen_attention._has_programs.__wrapped__(*of) and not recwarn

    def fails(*args):
        raise RuntimeError("Failed to find C compiler.\nMore of it")

    monkeypatch.setattr("modules.acceleration.varlen_triton.attention", fails)
    with pytest.warns(UserWarning, match="slower way, since Triton cannot: RuntimeError: Failed to find C compiler.$"):
        assert not varlen_attention._has_programs.__wrapped__(*of)


COMPILED = """
import torch
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from modules.acceleration import varlen_triton as short_rows

KINDS = {"queries": "*i32", "keys": "*i32", "seed": "*i64", "scale": "fp32", "dropout": "fp32"}
for name, T, d, capability in ("bf16", 64, 64, 80), ("bf16", 128, 32, 90), ("fp32", 64, 64, 80), ("fp32", 64, 32, 90):
    precision = short_rows._precision(torch.float32 if name == "fp32" else torch.bfloat16)
    sizes = {"T": T, "D": d, "PRECISION": precision}
    for kernel in (short_rows._forward, short_rows._backward):
        kinds = {x: KINDS.get(x, "*" + name if x.endswith("_at") else "i32") for x in kernel.arg_names}
        source = ASTSource(kernel, kinds | dict.fromkeys(sizes, "constexpr"), constexprs=sizes)
        found = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": T // 16})
        print(name, T, capability, len(found.asm["cubin"]) > 0)
"""


@pytest.mark.slow
@needs_triton
def test_programs_compile():
    """For A100 and H100, without either: Triton brings NVIDIA's assembler."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("True") == 8, done.stderr


def test_what_attention_is_told_of_first_tokens():
    """Two parts of three rows and two pieces of what is unused; made in an evaluation, used in training."""
    with torch.inference_mode():
        asked = varlen_attention._asked(2, 5, 3, torch.device("cpu"))
    assert not asked.is_inference() and asked.dtype == torch.int32
    assert asked.tolist() == [0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6]


def test_under_autocast_a_gpu_attends_in_its_dtype(monkeypatch):
    """Maps with stacked biases give fp32 there, which flash attention refuses: BitFit's stacked seeds failed."""
    seen = []
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    monkeypatch.setattr(varlen_attention, "flash_attention", lambda q, k, v, *_: seen.extend((q, k, v)) or q)
    ends = torch.tensor([0, 3])
    tokens = torch.randn(3, 8)
    Sequences(ends, ends, ends[:1], 2, 3, flash=True).attend(tokens, tokens.bfloat16(), tokens, 1.0, 0.0, first=False)
    assert [x.dtype for x in seen] == [torch.bfloat16] * 3
