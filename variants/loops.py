"""Other people's training loops: what a method asks of a loop beside a loss and a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from variants.adapters.adapted_model import AdaptedModel


def trainer_callback(adapted: AdaptedModel) -> TrainerCallback:
    """For ``Trainer(model=adapted.model, callbacks=[trainer_callback(adapted)])`` of transformers.

    It tells layers that read it (``reads_mask``) the mask that the model is called with, adds the gradient of the
    variant's penalty before each optimizer step, once however many batches the step has and whatever they are divided
    by, calls ``before_step``, and ``after_step`` behind it, with the gradients still in
    place. Methods without these (LoRA, DoRA, VeRA) train the same without it; AdaLoRA, without it, prunes nothing.
    """
    from transformers import TrainerCallback

    class Hooks(TrainerCallback):
        """What the active adapter asks of each step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Layers that read the mask of a batch are told it by the model's calls."""
            tells = any(layer.reads_mask for layer in adapted.layers)
            hook = adapted.model.register_forward_pre_hook(_tell, with_kwargs=True) if tells else None
            self.hooks = [hook] if hook else []

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """The model is called by others again."""
            for hook in self.hooks:
                hook.remove()
            adapted.tell_mask(None)

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Gradients are ready and clipped: the penalty's are added."""
            step = state.global_step + 1, state.max_steps
            if (penalty := adapted.penalty(*step)) is not None:
                _add_gradient(penalty, [p for p in adapted.trained().values() if p.requires_grad])
            adapted.before_step(*step)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            """The step is taken, and counted a moment later."""
            adapted.after_step(state.global_step + 1, state.max_steps, getattr(optimizer, "optimizer", optimizer))

    def _tell(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        adapted.tell_mask(kwargs.get("attention_mask"))

    return Hooks()


def _add_gradient(penalty: Tensor, parameters: list[nn.Parameter]) -> None:
    try:
        gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise VariantError(
            "the penalty depends on what a pass has computed, and the Trainer calls for it behind the backward pass: "
            "train it in a loop of your own (docs/adapters.md), or with this project's commands"
        ) from None
    for parameter, own in zip(parameters, gradients, strict=True):
        if own is not None:
            parameter.grad = own if parameter.grad is None else parameter.grad + own
