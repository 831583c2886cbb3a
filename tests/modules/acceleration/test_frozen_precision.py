"""A backbone in low precision, and back."""

import torch

from modules.acceleration.frozen_precision import lower_frozen
from tests.support.models import MODELS, inputs
from variants.sites.architectures import head_parameters


def test_released_the_weights_are_fp32_with_the_digits_that_are_left():
    model = MODELS["roberta"]().eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    head = set(head_parameters(model))
    lowered = lower_frozen(model, torch.bfloat16)
    assert {p.dtype for name, p in model.named_parameters() if name not in head} == {torch.bfloat16}
    assert model(**inputs("roberta", batch=2)).logits.dtype == torch.float32  # the head's
    lowered.release()
    for name, parameter in model.named_parameters():
        expected = before[name] if name in head else before[name].to(torch.bfloat16).float()
        assert torch.equal(parameter, expected), name
    assert not any(module._forward_pre_hooks for module in model.modules())
