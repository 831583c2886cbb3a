"""What an inventor's functions answer: optimizer groups without a rate, figures that are no numbers."""

from __future__ import annotations

import pytest
import torch

from variants import LoRA, VariantError, attach
from variants.contract.models import Tiny
from variants.training.answers import figures


def variant(**functions):
    return type("Own", (LoRA,), {"__module__": __name__, **functions})()


def groups_of(give, **rates: float) -> list[dict]:
    own = variant(param_groups=lambda self, layers, lr: give([p for x in layers for p in (x.lora_A, x.lora_B)], lr))
    return attach(Tiny(), own).param_groups(**rates)


def test_a_group_without_a_rate_learns_at_the_runs() -> None:
    """It trained at AdamW's own 1e-3, whatever --lr said."""
    groups = groups_of(lambda p, lr: [{"params": p[::2]}, {"params": p[1::2], "lr": 16 * lr}], lr=0.5, weight_decay=0.1)
    assert [group["lr"] for group in groups[:2]] == [0.5, 8.0]
    assert [group["weight_decay"] for group in groups[:2]] == [0.1, 0.1]
    given = groups_of(lambda p, lr: ({"params": iter(p), "weight_decay": 0.0} for _ in "1"), lr=0.5, weight_decay=0.1)
    assert (given[0]["lr"], given[0]["weight_decay"], len(given[0]["params"])) == (0.5, 0.0, 8)


@pytest.mark.parametrize(
    ("give", "says"),
    [
        (lambda p, lr: [{"params": p[:-1]}], "leaves out .*lora_B: put it into a group"),
        (lambda p, lr: [{"params": [*p, p[0]]}], "has .*lora_A twice"),
        (
            lambda p, lr: [{"params": [*p, torch.nn.Parameter(torch.ones(2))]}],
            "has a tensor that no layer trains",
        ),
        (lambda p, lr: p, "must give a list of groups"),
        (lambda p, lr: None, "must give a list of groups"),
    ],
)
def test_groups_that_cannot_be_are_refused(give, says) -> None:
    with pytest.raises(VariantError, match=f"Own.param_groups {says}"):
        groups_of(give, lr=0.1)


def test_figures_are_numbers_and_a_mistake_in_them_costs_nothing() -> None:
    """A tensor among them ended the run after training, and no result was written."""
    given = {"one": torch.tensor(1.5, requires_grad=True), "two": 2, 3: True, "many": torch.ones(3), "text": "x"}
    own = variant(metrics=lambda self, layers: given | {"nothing": None})
    numbers, wrong = figures(own, [])
    assert numbers == {"one": 1.5, "two": 2, "3": True} and all(type(x) in (int, float, bool) for x in numbers.values())
    assert [line.partition(": ")[2] for line in wrong] == [
        "'many' is no number but Tensor of shape (3,)",
        "'text' is no number but str",
        "'nothing' is no number but NoneType",
    ]
    assert figures(variant(metrics=lambda self, layers: 1 / 0), []) == (
        {},
        ["Own.metrics fails: ZeroDivisionError: division by zero"],
    )
    assert figures(variant(metrics=lambda self, layers: None), []) == ({}, [])


def test_an_optimizer_is_one_or_none_and_anything_else_is_refused(monkeypatch) -> None:
    adapted = attach(Tiny(), LoRA(r=2))
    groups = adapted.param_groups(0.1)
    assert adapted.optimizer(groups) is None
    for give, says in ((torch.optim.SGD, None), (lambda groups: groups, "LoRA.optimizer gives list, no torch.optim")):
        monkeypatch.setattr(LoRA, "optimizer", lambda self, groups, give=give: give(groups))
        if says is None:
            assert isinstance(adapted.optimizer(groups), torch.optim.SGD)
        else:
            with pytest.raises(VariantError, match=says):
                adapted.optimizer(groups)
