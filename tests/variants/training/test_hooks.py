"""What hooks are given and leave: their arguments, the step, the mask, gradients in their place."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.support.models import inputs
from tests.support.outside_variants import Quiet, QuietLayer
from tests.support.tiny import roberta
from variants import LoRA, VariantError, attach
from variants.training.hooks import as_tensor, gradients, put_back


@pytest.mark.parametrize("hook", ["penalty", "before_step", "after_step"])
def test_a_hook_of_other_arguments_is_refused_where_it_is_written(hook) -> None:
    old = {"__module__": __name__, hook: lambda self, layers: None}
    for bases, own in (((LoRA,), old), ((type("Inherited", (), old), LoRA), {"__module__": __name__})):
        with pytest.raises(VariantError, match=rf"Old.{hook} must take \(self, layers, step, total_steps\)"):
            type("Old", bases, own)
    for takes in (lambda self, layers, step, total_steps: None, lambda self, layers, *_: None):
        assert type("New", (LoRA,), {"__module__": __name__, hook: takes})


def test_a_number_of_a_step_becomes_a_tensor_and_a_tensor_stays() -> None:
    place = torch.tensor(3)
    assert as_tensor(place, torch.device("cpu")) is place
    made = as_tensor(7, torch.device("cpu"))
    assert made.shape == () and made == 7 and made / 14 == 0.5
    assert as_tensor(7, torch.device("meta")).is_meta


def test_layers_that_read_the_mask_are_told_it_and_no_others() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    reads, plain = attach(roberta(), Quiet(r=2)), attach(roberta(), LoRA(r=2))
    for adapted in (reads, plain):
        adapted.tell_mask(mask)
    assert all(torch.equal(layer.attention_mask, mask.bool()) for layer in reads.layers)
    assert all(layer.attention_mask is None for layer in plain.layers)
    reads.tell_mask(None)
    assert all(layer.attention_mask is None for layer in reads.layers)


def test_such_a_layer_cannot_be_packed() -> None:
    assert not attach(roberta(), Quiet(r=2)).layers[0].per_token
    with pytest.raises(VariantError, match="packed rows have none of: take per_token back"):
        type("Both", (QuietLayer,), {"per_token": True})


def test_what_a_pass_has_left_for_the_penalty_is_not_copied() -> None:
    """Tensors of a graph cannot be copied, and would keep it."""
    adapted = attach(roberta().train(), Quiet(r=2))
    batch = inputs("roberta", batch=2)
    adapted.model(**batch)
    assert adapted.layers[0].added.grad_fn is not None
    for model in (copy.deepcopy(adapted.model), pickle.loads(pickle.dumps(adapted.model))):
        layer = model.get_submodule(adapted.layers[0].site.module_path).adapter.layers[0]
        assert not hasattr(layer, "added")
        model(**batch)
        assert hasattr(layer, "added")


def test_gradients_from_data_are_of_batches_with_their_masks() -> None:
    adapted, seen = attach(roberta(), Quiet(r=2)), []

    def init_from_data(variant, model, batches):
        for batch in batches:
            seen.append(torch.equal(adapted.layers[0].attention_mask, batch["attention_mask"].bool()))

    adapted.adapter.variant = type("FromData", (Quiet,), {"__module__": __name__, "init_from_data": init_from_data})(
        r=2
    )
    adapted.init_from_data([inputs("roberta", batch=2)] * 2)
    assert seen == [True, True] and adapted.layers[0].attention_mask is None


def test_gradients_come_back_to_their_memory() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(5)]
    flat = torch.arange(10.0)
    views = list(flat.view(5, 2).unbind())
    for parameter, view in zip(parameters, views, strict=True):
        parameter.grad = view
    parameters[4].grad = None
    given = gradients(parameters)
    parameters[0].grad = torch.full((2,), 20.0)
    parameters[1].grad.data = torch.full((2,), 30.0)
    parameters[2].grad = None
    parameters[3].grad.mul_(2)
    put_back(given)
    assert flat.tolist() == [20, 20, 30, 30, 0, 0, 12, 14, 8, 9]
    assert all(p.grad is view for p, view in zip(parameters[:4], views, strict=False)) and parameters[4].grad is None
    flat.zero_()
    assert not any(p.grad.any() for p in parameters[:4])
