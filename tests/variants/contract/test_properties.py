"""The contract: it holds for every variant of the registry and for outsiders, and each property can fail."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import logging
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support.broken_variants import BROKEN, LEFT_OUT
from tests.support.outside_variants import OUTSIDERS
from variants import LoRA, Variant, attach, registry
from variants.check import FAILED, NOT_APPLICABLE, Finding, check, properties
from variants.contract import ddp as contract_ddp
from variants.contract.models import Subject, one_thread, shift

logging.getLogger("torch.__trace").addFilter(lambda record: False)  # thousands of lines beside every failure
ALONE = [name for name in properties() if name != contract_ddp.NAME]  # DDP needs processes: all variants share a pair

SLOW = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    with one_thread():
        yield


# ---- tests ----------------------------------------------------------------------------------------------------

VARIANTS = {name: registry.resolve(name) for name in registry.BUILT_IN} | {cls.__name__: cls for cls in OUTSIDERS}


@pytest.fixture(scope="session")
def ddp(tmp_path_factory, testrun_uid) -> dict[str, str]:
    """Name of each variant -> why it fails under DDP; those expected to fail come last. One worker tries all."""
    outcomes = tmp_path_factory.getbasetemp().parent / f"ddp-{testrun_uid}.json"
    with open(outcomes.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcomes.exists():
            classes = VARIANTS | {cls.__name__: cls for cls in BROKEN}
            found = contract_ddp.distributed([Subject.of(cls) for cls in classes.values()])
            outcomes.write_text(json.dumps(dict(zip(classes, found, strict=True))))
    return json.loads(outcomes.read_text())


OF_PASSES = {"compile", "accelerated", "checkpointing", "no host sync"}
"""Properties of how a layer computes: of methods whose layers compute alike, such as LoRA from several starts, one is
tried."""


def computed(cls: type[Variant]) -> Hashable:
    """What decides how a variant's passes are carried out."""
    layers = Subject.of(cls).attached().layers
    if not layers:
        return cls
    written = (getattr(type(layers[0]), part, None) for part in ("forward", "low_rank", "delta_weight", "pre"))
    return (*written, *(name for name, _ in layers[0].named_parameters()))


def tried() -> Iterator[tuple[str, list[str]]]:
    """Each variant with the properties that it is tried on."""
    seen: set[Hashable] = set()
    for name, cls in VARIANTS.items():
        alike = (key := computed(cls)) in seen
        seen.add(key)
        yield name, [item for item in ALONE if not (alike and item in OF_PASSES)]


TRIED = dict(tried())


def cases() -> Iterator[Any]:
    """Every property with every variant that it is tried on."""
    for name, items in TRIED.items():
        for item in items:
            yield pytest.param(item, name, id=f"{item}-{name}", marks=SLOW if item == "compile" else ())


@functools.cache
def findings(name: str, compiled: bool) -> dict[str, Finding]:
    """Of compiling, or of all else that a variant is tried on: one check, as to fit the models to a variant takes
    longer than most properties."""
    only = [item for item in TRIED[name] if (item == "compile") == compiled]
    return {finding.property: finding for finding in check(VARIANTS[name], only)}


@pytest.mark.parametrize(("item", "name"), cases())
def test_holds(item: str, name: str) -> None:
    found = findings(name, item == "compile")
    assert item in found, found  # a variant that cannot be tried has one finding alone
    assert found[item].status != FAILED, found[item].reason
    if found[item].status == NOT_APPLICABLE:
        assert found[item].reason


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_ddp_equals_one_process(ddp: dict[str, str], name: str) -> None:
    assert ddp[name] == ""


COSTLY = {"accelerated", "checkpointing", "learns", "round trip", "no host sync"}
"""Properties that take most of the time, compiling aside. A break that is another's is tried on one of them, by turns,
and on those that it must be seen by; that they say nothing of what holds is shown by the variants that hold."""
COMPILE = {"compile", "no host sync"}
"""Breaks that compiling finds. It takes longer than all else: it is tried on these alone."""


@pytest.mark.slow
@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_each_break_is_seen(cls: type[Variant], ddp: dict[str, str]) -> None:
    turn = sorted(COSTLY)[list(BROKEN).index(cls) % len(COSTLY)]
    left_out = COSTLY - BROKEN[cls] - {turn} | (set() if BROKEN[cls] & COMPILE else {"compile"})
    tried = [name for name in ALONE if name not in left_out]
    found = {f.property: f.reason for f in check(cls, tried) if f.status == FAILED}
    if ddp[cls.__name__]:
        found["DDP"] = ddp[cls.__name__]
    assert set(found) == BROKEN[cls], found
    assert all("\n" not in reason and reason for reason in found.values())


def test_each_property_can_fail() -> None:
    possible = set(properties()) - LEFT_OUT
    assert set().union(*BROKEN.values()) == possible
    alone = {next(iter(found)) for found in BROKEN.values() if len(found) == 1}
    assert alone == possible  # and each fails without pulling others along


# ---- shapes, ranks, dtypes and layouts ------------------------------------------------------------------------

ON_MAPS = [name for name, cls in VARIANTS.items() if issubclass(cls, Variant)]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.2}


def _with_rank(cls: type[Variant], rank: int) -> Variant:
    ranks = {f.name: rank for f in dataclasses.fields(cls) if f.name in ("r", "target_r", cls.size)}
    return cls(target="map", **ranks)


@pytest.mark.parametrize("name", ON_MAPS)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    wide=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    rank=st.integers(1, 20),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from([(7,), (1,), (0,), (2, 3), (0, 3), (3, 0), (2, 3, 4)]),
    bias=st.booleans(),
)
def test_any_shape_rank_dtype_and_layout(name, wide, rank, dtype, layout, bias) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("map", nn.Linear(*wide, bias=bias, dtype=dtype))
    x = torch.randn(*layout, wide[0]).to(dtype)
    base = model(x).detach()
    adapted = attach(model, _with_rank(VARIANTS[name], min(rank, *wide)))

    def close(a, b):
        scale = 1 + b.abs().max().item() if b.numel() else 1
        return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, atol=TOLERANCE[dtype] * scale, rtol=0)

    if VARIANTS[name].identity_at_start:
        assert close(model(x), base)
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, index)
    output = model(x)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in adapted.trained().values())
    assert close(output, model(x.reshape(-1, wide[0])).reshape(*layout, wide[1]))  # a layout is no more than a shape
    if VARIANTS[name].mergeable:
        adapted.merge()
        assert close(model(x), output)
        adapted.unmerge()
        assert torch.equal(model(x), output)


def test_a_rank_above_the_width_widens_the_models() -> None:
    assert Subject.of(LoRA(r=8)).width == 16
    assert Subject.of(LoRA(r=40)).width == 64
    assert Subject.of(LoRA(target="no_such_map")).variant.target == "attn-qv"
