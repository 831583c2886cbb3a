"""The LightningModule: what one training step is, for any variant and any objective."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn

from modules.backbones.recomputation import offloaded
from modules.benchmarks.objective import Objective
from modules.data.padding import tokens_of
from modules.training.acceleration import PlainComputation
from modules.training.gradients import check_gradients
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.errors import UserError
from variants.formats.native import restore
from variants.training.answers import figures


def variant_figures(adapted: AdaptedModel) -> dict[str, float]:
    """The variant's figures about the state of the active adapter; what is no number is left out, and named."""
    numbers, wrong = figures(adapted.variant, adapted.layers)
    for line in wrong:
        warnings.warn(f"{line}; it is left out of the results", stacklevel=2)
    return numbers


class FineTuner(LightningModule):
    """Trains what the variant trains: AdamW, linear schedule with warm-up, the objective's figures at every epoch.

    Args:
        adapted: the handle of the model with its adapter.
        objective: the losses of a batch and the figures of an evaluation.
        computation: how passes and steps are computed; by default as PyTorch and Lightning do.
        lr: learning rate of the adapter.
        head_lr: learning rate of the task head; ``lr`` where None.
        weight_decay: of all but biases and norms that train in place.
        warmup_ratio: linear warm-up as a share of all steps; then linear decay to 0.
        warmup_steps: the same in steps; it takes precedence.
        adam_eps: epsilon of AdamW.

    Attributes:
        last_losses: the loss of the last batch, without penalties, a scalar; of stacked adapters (S,).
    """

    strict_loading = True

    def __init__(
        self,
        adapted: AdaptedModel | Stack,
        objective: Objective,
        computation: PlainComputation | None = None,
        *,
        lr: float,
        head_lr: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.0,
        warmup_steps: int | None = None,
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.model = adapted.model
        self.adapted, self.objective = adapted, objective
        self.computation = computation or PlainComputation()
        self.lr, self.head_lr, self.weight_decay = lr, head_lr, weight_decay
        self.warmup_ratio, self.warmup_steps = warmup_ratio, warmup_steps
        self.adam_eps = adam_eps
        self.step = self.computation.training_step(self._losses, adapted.trained().values())
        self._now = torch.zeros((), dtype=torch.int64)  # the step under way, where a CUDA graph reads it
        self._train = self._eval = self._no_sums()  # not buffers, which DDP would copy from the first process to others

    # ---- what a run asks for, of one adapter or of each stacked one ------------------------------------------

    def each(self) -> Iterator[tuple[AdaptedModel, dict[str, Tensor]]]:
        """Each adapter in turn, active, with the gradients of what it trains, by name, as the last step left them."""
        yield self.adapted, {name: p.grad for name, p in self.adapted.trained().items() if p.grad is not None}

    def metrics_of_each(self) -> list[dict[str, float]]:
        """The variant's figures about the state of each adapter."""
        return [variant_figures(adapted) for adapted, _ in self.each()]

    def restore(self, index: int, folder: Path) -> None:
        """Give an adapter the values that it had when it was saved to ``folder``."""
        restore(self.adapted, folder)

    # ---- training and evaluation -----------------------------------------------------------------------------

    def _no_sums(self) -> Tensor:
        """Sums of losses, and of what they are divided by."""
        return torch.zeros(2, device=self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Forward pass of a batch, and the backward pass too where :attr:`step` does both; the loss, a scalar."""
        self._now.fill_(self.trainer.global_step + 1)
        if self.step is None:
            total, loss = self._losses(batch)
        else:  # Lightning must neither clear gradients nor compute them again
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                self.step.zero()
            total, loss = self.step(batch)
        self.last_losses = loss.detach()
        self._train += torch.stack((self.last_losses, torch.ones_like(loss)))
        return total

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(what is differentiated, the batch's own loss)."""
        losses, weights, penalty = self._pass(batch)
        loss = (weights * losses).sum()  # the weights make DDP's mean over ranks the mean over the batch
        return self._share(loss if penalty is None else loss + penalty), loss

    def _pass(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """(losses, their weights, the variant's penalty) of a training batch."""
        self._tell_mask(batch)
        with self.computation.forward_pass(), offloaded(self.computation.offload):
            losses, weights, _ = self.objective.losses(self.model, batch, training=True)
        with self.computation.updates():
            return losses, weights, self.adapted.penalty(self._now, self.total_steps)

    def _tell_mask(self, batch: dict[str, Tensor]) -> None:
        if any(layer.reads_mask for layer in self.adapted.layers):  # none of a stack's does
            self.adapted.tell_mask(tokens_of(batch))

    def _share(self, total: Tensor) -> Tensor:
        """A batch's share of a step's loss; Lightning divides by itself."""
        return total / self.trainer.accumulate_grad_batches if self.step else total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's, unless :attr:`step` has computed the gradients already."""
        if self.step is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Lightning's, unless gradients are tensors that stay in place for :attr:`step`."""
        if self.step is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_train_batch_end(self, *args: Any) -> None:
        """Forget the batch's mask, which gradient checkpointing needs until here."""
        self._tell_mask({})

    def on_train_epoch_start(self) -> None:
        """Begin the sum of the epoch's training losses."""
        self._now = self._now.to(self.device)  # in the first one: a CUDA graph knows no other place
        self._train = self._no_sums()

    def on_validation_epoch_start(self) -> None:
        """Begin the sums and metrics of an evaluation."""
        self._train = self._train.to(self.device)  # a frozen model is scored without an epoch of training
        self._eval = self._no_sums()
        self.objective.reset()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Take a batch of a dev split into the sums and metrics."""
        self.take_in(batch, self.trainer.datamodule.eval_splits[dataloader_idx])

    def take_in(self, batch: dict[str, Tensor], split: str) -> None:
        """Take an evaluation batch into the sums and metrics."""
        self._tell_mask(batch)
        with self.computation.forward_pass():
            losses, weights, outputs = self.objective.losses(self.model, batch, training=False)
        self._tell_mask({})
        self._eval += torch.stack(((weights * losses).sum(), weights.sum()))
        self.objective.update(outputs, batch, split)

    def on_test_epoch_start(self) -> None:
        """As before an evaluation on the dev splits."""
        self.on_validation_epoch_start()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Take a batch of the test set into the sums and metrics."""
        self.take_in(batch, "test")

    def dev_losses(self) -> list[float]:
        """The mean loss of each adapter in the evaluation that has just ended, over all processes."""
        loss, weight = self.all_gather(self._eval).reshape(-1, 2).sum(0).tolist()
        return [loss / max(weight, 1)]

    def epoch_figures(self) -> dict[str, float]:
        """Losses and metrics of the evaluation that has just ended, over all processes."""
        sums = self.all_gather(torch.stack((self._train, self._eval))).reshape(-1, 2, 2).sum(0).tolist()
        (train, steps), (loss, weight) = sums
        figures = {"train_loss": train / max(steps, 1), "loss": loss / max(weight, 1)}
        return figures | self.objective.of_loss(figures["loss"]) | self.objective.figures(self)

    # ---- optimisation --------------------------------------------------------------------------------------

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW or the variant's own optimizer over its groups, and a linear schedule by steps.

        Raises:
            UserError: nothing trains.
        """
        groups = self.param_groups()
        if not groups:
            raise UserError("nothing trains: the variant has no parameter here and the model has no task head")
        optimizer = self.adapted.optimizer(groups) or self.computation.adamw(
            groups, self.adam_eps, scaled=self._scaler is not None
        )
        steps = self.total_steps = int(self.trainer.estimated_stepping_batches)
        warmup = self.warmup_steps if self.warmup_steps is not None else int(self.warmup_ratio * steps)

        def factor(step: int) -> float:
            return step / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, with their learning rates."""
        return self.adapted.param_groups(self.lr, self.head_lr, self.weight_decay)

    def stepping(self) -> AbstractContextManager[None]:
        """``with`` this, a step of the optimizer."""
        return nullcontext()

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """fp16's, else None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> None:
        """Scale the gradients of parameters, together, to a norm of at most ``max_norm``."""
        nn.utils.clip_grad_norm_(parameters, max_norm)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm with :meth:`clip`; with Lightning's own function fp16's scaled gradients, and by value."""
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        if algorithm == GradClipAlgorithmType.NORM and self._scaler is None:
            max_norm = gradient_clip_val or 0.0
            if not self.computation.clip_in_step(optimizer, max_norm, self.clip) and max_norm:
                self.clip([p for group in optimizer.param_groups for p in group["params"]], max_norm)
            return
        # Lightning refuses a fused optimizer under every mixed precision; only fp16's scaled gradients forbid it
        plugin = Precision() if self._scaler is None else self.trainer.precision_plugin
        plugin.clip_gradients(optimizer, gradient_clip_val or 0.0, algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimizer step, then the variant's own: gradients are still there, averaged over ranks and clipped."""
        scaler = self._scaler
        scale = scaler.get_scale() if scaler else None
        with self.stepping():
            super().optimizer_step(*args, **kwargs)
        if scaler is None or scaler.get_scale() >= scale:  # a smaller scale: fp16 overflowed, the step was skipped
            with self.computation.updates():
                self.adapted.after_step(self.trainer.global_step + 1, self.total_steps, self.optimizers(False))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Average gradients over processes; before the first step, check them; then the variant's own action.

        Raises:
            UserError: something that trains got none.
        """
        if self.step is not None:
            self.step.average()
        if self.trainer.global_step == 0:
            check_gradients(self.adapted, self.step, self.trainer)
        with self.computation.updates():
            self.adapted.before_step(self.trainer.global_step + 1, self.total_steps)

    # ---- checkpoints: what trains, never the frozen backbone -------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The handle's: what trains and the layers' state."""
        return self.adapted.state_dict()

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        """The handle's; names and shapes must be those of :meth:`state_dict`."""
        self.adapted.load_state_dict(state_dict)
