"""The handle of a model with adapters on it: attach, combine, count, and what a trainer needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from variants.adapters import hooks
from variants.adapters.adapter import check_fit, copy_tensors
from variants.adapters.switching import Switching
from variants.errors import VariantError
from variants.fingerprint import fingerprint, sketch
from variants.layer import full_precision
from variants.sites.architectures import head_parameters
from variants.sites.kinds.few_bits import numel, quantisation_of
from variants.sites.targets import left_out
from variants.training.answers import own_optimizer
from variants.training.batches import Batches
from variants.training.hooks import as_tensor, end_passes, gradients, put_back, tell_mask
from variants.training.optimizers import forget
from variants.variant import BaseVariant
from variants.wrappers import is_sharded, unwrapped


def attach(
    model: nn.Module, variant: BaseVariant, seed: int = 0, *, head: Sequence[str] | None = None, name: str = "default"
) -> AdaptedModel:
    """Freeze ``model``, put the variant's layers on it and leave its task head trainable.

    Args:
        model: any module; for transformers models targets and head are known by architecture. One that is wrapped
            (torch.compile, DataParallel, Fabric) is adapted inside: the wrapper computes with the adapter, and the
            handle's ``model`` is what is inside.
        variant: the method and its hyperparameters.
        seed: of the initial values, which depend on it and on each layer's path alone.
        head: names of the head's parameters, where they cannot be known by architecture.
        name: under which this adapter is kept beside others (:meth:`AdaptedModel.add`).

    Raises:
        VariantError: the model carries adapters already, or the variant does not fit it.
    """
    model = unwrapped(model)
    if hooks.is_adapted(model):
        raise VariantError("the model carries adapters already: use the handle's add(), or attach to a fresh model")
    adapted = AdaptedModel(model, head_parameters(model) if head is None else list(head))
    adapted.add(name, variant, seed)
    return adapted


class AdaptedModel(Switching):
    """A frozen model and its adapters, one of them active. Made by :func:`attach`."""

    _base_values: Mapping[str, str | None] | None = None

    def combine(self, weights: Mapping[str, float | Mapping[str, float]], name: str, rank: int | None = None) -> float:
        """Add ``name``, the weighted sum of other adapters as one LoRA: see `variants.adapters.combine`."""
        from variants.adapters.combine import combine

        return combine(self, weights, name, rank)

    def mixed(self, rows: Sequence[str | None]) -> AbstractContextManager[nn.Module]:
        """``with`` this, row i of a batch is computed by adapter ``rows[i]``: see `variants.adapters.mixed_batch`."""
        from variants.adapters.mixed_batch import mixed

        return mixed(self, rows)

    @property
    def left_out(self) -> dict[str, str]:
        """Maps that the active adapter's target covers and leaves out (all-linear does), by path -> why."""
        return left_out(self.model, getattr(self.variant, "target", ""))

    def trained(self) -> dict[str, nn.Parameter]:
        """Every parameter that the active adapter trains, layers first; names as in its file."""
        parameters = dict(self.model.named_parameters())
        layers = {k: t for k, t in self.adapter.tensors().items() if isinstance(t, nn.Parameter) and t.requires_grad}
        return layers | {key: parameters[key] for key in self.adapter.in_place}

    def count(self) -> dict[str, int]:
        """Trained parameters of adapter and head apart, as the papers count, and all parameters of the model, those in
        few bits as the numbers that they stand for."""
        head = set(self.head)
        sizes = {"adapter": 0, "head": 0}
        for key, parameter in {id(p): (k, p) for k, p in self.trained().items()}.values():
            sizes["head" if key in head else "adapter"] += parameter.numel()
        layers = (p for layer in self.layers for p in layer.parameters())  # in the model, unless they are stacked
        return sizes | {"total": sum({id(p): numel(p) for p in (*self.model.parameters(), *layers)}.values())}

    def param_groups(self, lr: float, head_lr: float | None = None, weight_decay: float = 0.0) -> list[dict]:
        """Optimizer groups: the variant's own, then what trains in place (:meth:`Adapter.param_groups`)."""
        parameters = dict(self.model.named_parameters())
        return self.adapter.param_groups(parameters, set(self.head), lr, head_lr, weight_decay)

    def tell_mask(self, mask: Tensor | None) -> None:
        """To be called before each pass with the batch's attention mask (rows, length), where layers read it
        (``reads_mask``); None behind the last one."""
        tell_mask(self.layers, mask)

    def penalty(self, step: int | Tensor, total_steps: int) -> Tensor | None:
        """The variant's addition to the loss of a batch, or None; in full precision whatever autocast is on.

        Args:
            step: the optimizer step that the batch is for: 1, 2, ... ``total_steps``. A CUDA graph reads it again from
                a tensor () on the model's device.
        """
        step = as_tensor(step, next(self.model.parameters()).device)
        with full_precision(step):
            return self.variant.penalty(self.layers, step, total_steps)

    def optimizer(self, groups: list[dict]) -> torch.optim.Optimizer | None:
        """The variant's own optimizer over groups, or None for the trainer's."""
        return own_optimizer(self.variant, groups)

    def before_step(self, step: int, total_steps: int) -> None:
        """To be called before each optimizer step, when gradients are ready; they stay in their memory."""
        if type(self.variant).before_step is not BaseVariant.before_step:
            given = gradients(self.trained().values())
            self.variant.before_step(self.layers, step, total_steps)
            put_back(given)

    def after_step(self, step: int, total_steps: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """To be called after each optimizer step, before its gradients are cleared.

        Args:
            optimizer: whose state starts anew for the parameters that the variant names.
        """
        forget(optimizer, self.variant.after_step(self.layers, step, total_steps) or ())

    def shrink(self) -> None:
        """Drop for good whatever of the layers no output depends on, such as AdaLoRA's pruned triplets.

        Optimizers made before do not fit the layers any more.
        """
        for layer in self.layers:
            layer.shrink()

    def init_from_data(
        self, batches: Iterable[dict[str, Tensor]], loss: Callable[[dict[str, Tensor]], Tensor] | None = None
    ) -> None:
        """To be called once with a few training batches, before the first step.

        Args:
            loss: of a batch; by default what the model gives as ``loss``.
        """
        if type(self.variant).init_from_data is BaseVariant.init_from_data:
            return
        self.adapter.late.follow()
        self.variant.init_from_data(self.model, Batches(self.model, self.layers, batches, loss))
        end_passes(self.layers)  # they are of no step
        if self.variant.subtract_initial:
            self.subtract()

    def subtract(self, initial: dict[str, Tensor] | None = None) -> None:
        """Take the delta of the active adapter's values, or of ``initial`` ones, off the base in place of its first."""
        active, adapter = self.active, self.adapter
        self.deactivate()  # the base is whole again
        adapter.subtract(initial)
        self.switch(active)

    def metrics(self) -> dict[str, float]:
        """The variant's figures about its own state."""
        return self.variant.metrics(self.layers)

    def state_dict(self, trimmed: bool = False) -> dict[str, Tensor]:
        """All that trains, and the layers' persistent state: for a checkpoint or, trimmed, for a file."""
        parameters = dict(self.model.named_parameters())
        values = {key: self.adapter.values.get(key, parameters[key]) for key in self.adapter.in_place}
        return {k: t.detach() for k, t in (self.adapter.tensors(trimmed) | values).items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors in; names, shapes and dtypes must be those of :meth:`state_dict`.

        Raises:
            VariantError: the first name that is missing or unknown, or the first tensor that does not fit; or the
                model has no memory yet.
        """
        self.adapter.late.follow()
        if any(tensor.is_meta for tensor in self.model.parameters()):
            raise VariantError("the model is on the meta device: give it memory and its weights, then load the adapter")
        in_place = {key: tensors[key] for key in self.adapter.in_place if key in tensors}
        if missing := [key for key in self.adapter.in_place if key not in tensors]:
            raise VariantError(f"the file lacks {missing[0]}, which {self.variant.name} trains in this model")
        with self.apart():
            copy_tensors(self.adapter, {k: t for k, t in tensors.items() if k not in in_place})
        self.adapter.late.starts.clear()  # it has learnt
        parameters = dict(self.model.named_parameters())
        for key, tensor in in_place.items():
            own = self.adapter.values.get(key, parameters[key])  # as in state_dict
            check_fit(key, tensor, own)
            own.data.copy_(tensor)

    def note_base(self) -> None:
        """Work out now what files say of the base: before it is put in shards or in few bits."""
        self._base_values = self.base_values()

    def base_values(self) -> Mapping[str, str | None]:
        """Fingerprint and sketch of what stays frozen (`variants.fingerprint`), sites of a residual variant as they
        were before: equal for every adapter of one base."""
        if self._base_values is not None:
            return self._base_values
        if is_sharded(self.model) or quantisation_of(self.model) or getattr(self.model, "is_stand_in", False):
            return {"fingerprint": None}
        active, skip = self.active, {*self.head, *self.adapter.in_place}
        if self._kept:  # updates are off it
            self.deactivate()
        try:
            return {"fingerprint": fingerprint(self.model, skip), "sketch": sketch(self.model, skip)}
        finally:
            if self.active is None:
                self.switch(active)

    def __repr__(self) -> str:
        counts = self.count() if self.active else {}
        return f"AdaptedModel({', '.join(self.adapters)}; active: {self.active}; {counts})"
