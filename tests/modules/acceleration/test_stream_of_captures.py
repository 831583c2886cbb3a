"""Which stream gradients are handed over on. A layer that notes what its pass computes keeps the graph of that pass,
and with it each parameter's node of gradients, which belongs to the stream that it was made on; a capture that has to
do with a node of the default stream fails. Seen here without a GPU: which nodes live on, and what is computed where."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.autograd.graph import get_gradient_edge

from modules.acceleration import cuda_graphs
from modules.acceleration.cuda_graphs import GraphCache, GraphedStep
from tests.support.models import MODELS, inputs
from tests.support.outside_variants import Quiet
from variants import LoRA, attach
from variants.adapters.adapted_model import AdaptedModel


class QuietFromData(Quiet):
    """Quiet, which looks at gradients of its layers before the first step."""

    def init_from_data(self, model, batches):
        for batch in batches:
            model(**batch).logits.sum().backward()


def stepped(adapted: AdaptedModel, **options) -> GraphedStep:
    """A step of the model, penalty included."""

    def compute(batch):
        loss = adapted.model(**batch).logits.square().sum()
        penalty = adapted.penalty(2, 2)
        return (loss if penalty is None else loss + penalty,)

    return GraphedStep(compute, adapted.trained().values(), **options)


def mark(adapted: AdaptedModel) -> None:
    """Mark the nodes of gradients that are alive: all others are made anew when they are asked for."""
    for parameter in adapted.trained().values():
        get_gradient_edge(parameter).node.metadata["marked"] = True


def marked(adapted: AdaptedModel) -> int:
    """How many marked nodes are still alive."""
    return sum("marked" in get_gradient_edge(p).node.metadata for p in adapted.trained().values())


@pytest.mark.parametrize(("variant", "kept"), [(LoRA(r=2), False), (Quiet(r=2), True)])
def test_what_a_layer_notes_keeps_the_nodes_of_its_pass(variant, kept):
    """Through any number of steps; which is why every step is computed on one stream."""
    adapted = attach(MODELS["roberta"]().eval(), variant)
    step = stepped(adapted)
    step.zero()
    step(inputs("roberta", batch=4))
    mark(adapted)
    for _ in range(3):
        step(inputs("roberta", batch=4))
    head = len(adapted.head)  # its nodes go with the loss
    assert marked(adapted) == (len(adapted.trained()) - head if kept else 0)


def test_no_graph_of_the_first_batches_is_alive_in_a_step():
    adapted = attach(MODELS["roberta"]().eval(), QuietFromData(r=2))
    batches = [inputs("roberta", batch=4)] * 2
    adapted.init_from_data(batches)
    assert all(layer.added.grad_fn is None for layer in adapted.layers)
    adapted.model(**batches[0])
    mark(adapted)
    adapted.init_from_data(batches)
    assert not marked(adapted)


@pytest.mark.parametrize("failing", [False, True])
def test_every_step_before_a_capture_is_on_its_stream(monkeypatch, failing):
    """The first of a shape too, computed as eager steps are; none where nothing is captured, or nothing more."""
    done = []

    def aside(compute, graph=True):
        done.append("as captured" if graph else "eager")
        return compute()

    def capture(self, compute, batch):
        done.append("capture")
        if failing:
            raise RuntimeError("cannot be captured")

    monkeypatch.setattr(cuda_graphs, "aside", aside)
    monkeypatch.setattr(GraphCache, "capture", capture)
    batches = [inputs("roberta", batch=rows) for rows in (4, 2)]

    def taken(**options):
        done.clear()
        step = stepped(attach(MODELS["roberta"]().eval(), Quiet(r=2)), **options)
        step.zero()
        losses = [step(batches[k])[0] for k in (0, 1, 0, 1)]
        return losses, list(done)

    plain, nowhere = taken()  # on the CPU
    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True, raising=False)
    with pytest.warns(UserWarning, match="no CUDA graph can be captured") if failing else nullcontext():
        losses, there = taken()
    assert taken(graphs=False)[1] == nowhere == [] and torch.equal(torch.stack(losses), torch.stack(plain))
    once = ["eager", "eager", "as captured", "capture"]
    assert there == (once if failing else [*once, "as captured", "capture"])
