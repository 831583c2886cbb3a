"""LoRA-Pro's gradients against what they are to be: nearest to full fine-tuning's of all steps of A and B."""

import torch

from tests.support.models import MODELS
from tests.support.parity import loss, off
from variants import LoRAPro, attach
from variants.methods import lora_pro
from variants.methods.lora_pro import adjusted


def test_the_steps_sum_is_the_projection_of_the_full_gradient(monkeypatch) -> None:
    """min ‖s(B·g_A + g_B·A) - G‖ (eq. 5): least squares over both, solved densely."""
    monkeypatch.setattr(lora_pro, "DAMPING", 0.0)
    rng = torch.Generator().manual_seed(0)
    m, n, r, s = 7, 6, 2, 1.5
    A, B, G = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((r, n), (m, r), (m, n)))
    g_A, g_B = adjusted(A, B, s * B.mT @ G, s * G @ A.mT, s)
    step = s * (B @ g_A + g_B @ A)
    columns = [s * torch.outer(B[:, i], torch.eye(n)[j]).flatten() for i in range(r) for j in range(n)]
    columns += [s * torch.outer(torch.eye(m)[i], A[j]).flatten() for i in range(m) for j in range(r)]
    basis = torch.stack(columns, 1).double()
    best = basis @ torch.linalg.lstsq(basis, G.flatten(), driver="gelsd").solution
    assert off(step.flatten(), best) < 1e-8


def test_gradients_are_adjusted_in_place() -> None:
    adapted = attach(MODELS["roberta"](), LoRAPro(r=2))
    loss(adapted.model, "roberta").backward()
    layer = adapted.layers[0]
    kept, before, of_A = layer.lora_B.grad, layer.lora_B.grad.clone(), layer.lora_A.grad.clone()
    assert not of_A.any()
    adapted.before_step(1, 10)
    assert layer.lora_B.grad is kept and not layer.lora_A.grad.any()
    A, s = layer.lora_A, layer.scaling
    expected = before @ torch.linalg.inv(A @ A.mT) / s**2
    assert off(kept, expected) < 0.05 * expected.abs().max()
