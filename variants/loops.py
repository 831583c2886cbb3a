"""Other people's training loops: what a method asks of a loop beside a loss and a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from variants.adapters.adapted_model import AdaptedModel


def trainer_callback(adapted: AdaptedModel) -> TrainerCallback:
    """For ``Trainer(model=adapted.model, callbacks=[trainer_callback(adapted)])`` of transformers.

    It adds the gradient of the variant's penalty before each optimizer step, once however many batches the step has
    and whatever they are divided by, calls ``before_step``, and ``after_step`` behind it, with the gradients still in
    place. Methods without these (LoRA, DoRA, VeRA) train the same without it; AdaLoRA, without it, prunes nothing.
    """
    from transformers import TrainerCallback

    class Hooks(TrainerCallback):
        """What the active adapter asks of each step."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Gradients are ready and clipped: the penalty's are added."""
            penalty = adapted.penalty()
            if penalty is None:
                adapted.before_step(state.global_step + 1, state.max_steps)
                return
            parameters = [p for p in adapted.trained().values() if p.requires_grad]
            for parameter, own in zip(
                parameters, torch.autograd.grad(penalty, parameters, allow_unused=True), strict=True
            ):
                if own is not None:
                    parameter.grad = own if parameter.grad is None else parameter.grad + own
            adapted.before_step(state.global_step + 1, state.max_steps)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            """The step is taken, and counted a moment later."""
            adapted.after_step(state.global_step + 1, state.max_steps, getattr(optimizer, "optimizer", optimizer))

    return Hooks()
