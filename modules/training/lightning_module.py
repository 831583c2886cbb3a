"""The LightningModule: what one training step is, for any variant and any objective."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor

from modules.acceleration.cuda_graphs import GraphedAdamW, GraphedStep
from modules.benchmarks.objective import Objective
from variants.adapters.adapted_model import Adapted
from variants.errors import UserError


class FineTuner(LightningModule):
    """Trains what the variant trains: AdamW, linear schedule with warm-up, the objective's figures at every
    epoch.

    Args:
        adapted: the handle of the model with its adapter.
        objective: the losses of a batch and the figures of an evaluation.
        lr, head_lr: of the adapter and of the task head (``lr`` where None).
        warmup_ratio, warmup_steps: linear warm-up, as a share of all steps or in steps; then linear decay to 0.
        weight_decay: of all but biases and norms that train in place.
        adam_eps: of AdamW.
        graphs: replay training steps as CUDA graphs (:class:`GraphedStep`): one process, no fp16.
    """

    strict_loading = True
    clip = staticmethod(torch.nn.utils.clip_grad_norm_)
    """Scales gradients, those of the model together, to a norm."""

    def __init__(
        self,
        adapted: Adapted,
        objective: Objective,
        *,
        lr: float,
        head_lr: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.0,
        warmup_steps: int | None = None,
        adam_eps: float = 1e-8,
        graphs: bool = False,
    ) -> None:
        super().__init__()
        self.model = adapted.model
        self.adapted, self.objective = adapted, objective
        self.lr, self.head_lr, self.weight_decay = lr, head_lr, weight_decay
        self.warmup_ratio, self.warmup_steps = warmup_ratio, warmup_steps
        self.adam_eps = adam_eps
        self.graphed = GraphedStep(self._losses, adapted.trained().values()) if graphs else None
        self._train = self._eval = self._no_sums()  # not buffers, which DDP would copy from the first process to others

    def _no_sums(self) -> Tensor:
        """Sums of losses, and of what they are divided by."""
        return torch.zeros(2, device=self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.graphed is None:
            total, loss = self._losses(batch)
        else:  # the backward pass too: what follows must not clear or compute gradients again
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                self.graphed.zero()
            total, loss = self.graphed(batch)
        self._train += torch.stack((loss.detach(), torch.ones_like(loss)))
        return total

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(what is differentiated, the batch's own loss)."""
        with self.adapted.prepared():
            losses, weights, _ = self.objective.losses(self.model, batch, training=True)
        loss = (weights * losses).sum()  # the weights make DDP's mean over ranks the mean over the batch
        penalty = self.adapted.penalty()
        total = loss if penalty is None else loss + penalty
        return total / self.trainer.accumulate_grad_batches if self.graphed else total, loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.graphed is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        if self.graphed is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_train_epoch_start(self) -> None:
        self._train = self._no_sums()

    def on_validation_epoch_start(self) -> None:
        self._train = self._train.to(self.device)  # a frozen model is scored without an epoch of training
        self._eval = self._no_sums()
        self.objective.reset()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        with self.adapted.prepared():
            losses, weights, outputs = self.objective.losses(self.model, batch, training=False)
        self._eval += torch.stack(((weights * losses).sum(), weights.sum()))
        self.objective.update(outputs, batch, self.trainer.datamodule.eval_splits[dataloader_idx])

    def epoch_figures(self) -> dict[str, float]:
        """Losses and metrics of the epoch that has just ended, over all processes."""
        sums = self.all_gather(torch.stack((self._train, self._eval))).reshape(-1, 2, 2).sum(0).tolist()
        (train, steps), (loss, weight) = sums
        figures = {"train_loss": train / max(steps, 1), "loss": loss / max(weight, 1)}
        return figures | self.objective.figures(self)

    # ---- optimisation --------------------------------------------------------------------------------------

    def configure_optimizers(self) -> dict[str, Any]:
        groups = self.adapted.param_groups(self.lr, self.head_lr, self.weight_decay)
        if not groups:
            raise UserError("nothing trains: the variant has no parameter here and the model has no task head")
        if self.graphed is not None:
            optimizer = GraphedAdamW(groups, eps=self.adam_eps)
        else:
            optimizer = torch.optim.AdamW(groups, eps=self.adam_eps, fused=self._scaler is None)
        steps = self.total_steps = int(self.trainer.estimated_stepping_batches)
        warmup = self.warmup_steps if self.warmup_steps is not None else int(self.warmup_ratio * steps)

        def factor(step: int) -> float:
            return step / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """fp16's, else None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if isinstance(optimizer, GraphedAdamW) and (gradient_clip_algorithm or "norm") == "norm":
            optimizer.max_norm, optimizer.clip = gradient_clip_val or 0.0, self.clip  # part of its graph
            return
        if self._scaler is None and (gradient_clip_algorithm or "norm") == "norm":
            if gradient_clip_val:
                self.clip([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)
            return
        # Lightning refuses a fused optimizer under every mixed precision; only fp16's scaled gradients forbid it
        plugin = Precision() if self._scaler is None else self.trainer.precision_plugin
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        plugin.clip_gradients(optimizer, gradient_clip_val or 0.0, algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimizer step, then the variant's own: gradients are still there, averaged over ranks and clipped."""
        scaler = self._scaler
        scale = scaler.get_scale() if scaler else None
        super().optimizer_step(*args, **kwargs)
        if scaler is None or scaler.get_scale() >= scale:  # a smaller scale: fp16 overflowed, the step was skipped
            self.adapted.after_step(self.trainer.global_step + 1, self.total_steps)

    def on_after_backward(self) -> None:
        if self.trainer.global_step == 0:
            graphed = {id(p) for p in self.graphed.unused} if self.graphed else set()
            trained = self.adapted.trained().items()
            unused = [name for name, p in trained if p.grad is None or id(p) in graphed]
            if unused:
                raise UserError(
                    f"{unused[0]} trains but gets no gradient ({len(unused)} such tensors): the model does not use it, "
                    "so leave it out of the target"
                )

    # ---- checkpoints: what trains, never the frozen backbone -------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return self.adapted.state_dict()

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        self.adapted.load_state_dict(state_dict)
