"""The LightningModule: what one training step is, for any variant and any objective."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn

from modules.backbones.recomputation import offloaded
from modules.benchmarks.objective import Objective
from modules.training.acceleration import PlainComputation
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
        with self.computation.forward_pass(), offloaded(self.computation.offload):
            losses, weights, _ = self.objective.losses(self.model, batch, training=True)
        loss = (weights * losses).sum()  # the weights make DDP's mean over ranks the mean over the batch
        with self.computation.updates():
            penalty = self.adapted.penalty()
        return self._share(loss if penalty is None else loss + penalty), loss

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

    def on_train_epoch_start(self) -> None:
        """Begin the sum of the epoch's training losses."""
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
        with self.computation.forward_pass():
            losses, weights, outputs = self.objective.losses(self.model, batch, training=False)
        self._eval += torch.stack(((weights * losses).sum(), weights.sum()))
        self.objective.update(outputs, batch, split)

    def on_test_epoch_start(self) -> None:
        """As before an evaluation on the dev splits."""
        self.on_validation_epoch_start()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Take a batch of the test set into the sums and metrics."""
        self.take_in(batch, "test")

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
        groups = self.adapted.param_groups(self.lr, self.head_lr, self.weight_decay)
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
            self._check_gradients()
        with self.computation.updates():
            self.adapted.before_step(self.trainer.global_step + 1, self.total_steps)

    def _check_gradients(self) -> None:
        """Whether everything that trains got a gradient, in some process at least; all of them come to one end.

        A layer that no pass has called is only named: a router may send tokens there later.

        Raises:
            UserError: a parameter of another layer has none, or no layer was called.
        """
        trained, layers = self.adapted.trained(), [layer.site.path for layer in self.adapted.layers]
        without, passed_over = {id(p) for p in self.step.unused} if self.step else set(), set(self.adapted.uncalled())
        got = self._anywhere([p.grad is not None and id(p) not in without for p in trained.values()])
        called = self._anywhere([path not in passed_over for path in layers])
        unused = [name for name, found in zip(trained, got, strict=True) if not found]
        uncalled = tuple(f"{path}." for path, found in zip(layers, called, strict=True) if not found)
        if lost := [name for name in unused if not name.startswith(uncalled)]:
            raise UserError(
                f"{lost[0]} trains but gets no gradient ({len(lost)} such tensors): the model does not use it, "
                "so leave it out of the target"
            )
        if uncalled:
            text = f"no pass has called {uncalled[0][:-1]} before the first step ({len(uncalled)} such layers)"
            if len(uncalled) == len(layers):
                raise UserError(f"{text}: the model reads these weights itself, so name other maps as the target")
            if self.trainer.is_global_zero:
                warnings.warn(
                    f"{text}: unless a router sends tokens there later, leave it out of the target", stacklevel=2
                )

    def _anywhere(self, found: list[bool]) -> list[bool]:
        """Of each whether it is so in any process."""
        flags = torch.tensor(found, dtype=torch.int32, device=self.device)
        return self.trainer.strategy.reduce(flags, reduce_op="max").bool().tolist()

    # ---- checkpoints: what trains, never the frozen backbone -------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The handle's: what trains and the layers' state."""
        return self.adapted.state_dict()

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        """The handle's; names and shapes must be those of :meth:`state_dict`."""
        self.adapted.load_state_dict(state_dict)
