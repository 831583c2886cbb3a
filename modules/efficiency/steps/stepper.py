"""Taking training steps: eager, compiled, as a CUDA graph of the whole step, or as this project's command does."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from modules.acceleration.cuda_graphs import GraphCache, GraphedAdamW, GraphedStep, aside
from modules.efficiency.steps.backbones import Batch
from modules.efficiency.steps.batches import picked
from modules.efficiency.steps.trainee import Trainee
from variants.acceleration.basics.torch_private import allow_recompilations

CLIP = 1.0
"""Largest norm of the gradient."""
WARM_UP = 2
"""Eager steps before a capture, in which libraries and the optimizer's state are set up."""


class Stepper:
    """``stepper(batch)`` is one step: clear, forward, backward, clip to norm 1, AdamW, the method's own step.

    Args:
        trainee: the model; for the compiled modes see `compile_core`.
        mode: one of `implementations.MODES`.
        lr: of AdamW, constant.
        faithful: warm-up and capture leave weights and optimizer as they were (costs a copy of the weights).
    """

    def __init__(self, trainee: Trainee, mode: str, lr: float = 1e-3, faithful: bool = False) -> None:
        self.trainee, self.mode, self.lr, self.faithful = trainee, mode, lr, faithful
        self.parameters, self.steps = trainee.parameters, 0
        self.on_gpu = torch.cuda.is_available() and any(p.is_cuda for p in self.parameters)
        if mode in ("graphs", "compiled+graphs") and not torch.cuda.is_available():
            raise RuntimeError("CUDA graphs need a GPU")
        self.optimizer = (
            torch.optim.AdamW(self.parameters, lr=lr, fused=True, capturable=self.on_gpu) if self.parameters else None
        )
        self._graphs: GraphCache[tuple[Tensor, list[Tensor]]] = GraphCache()
        self._run = {"graphs": self._replay, "compiled+graphs": self._replay}.get(mode, self._step)
        if mode == "trained":
            self._run = self._trained()

    def __call__(self, batch: Batch) -> Tensor:
        """The loss before the step, detached; valid until the next call."""
        loss = self._run(picked(batch, self.trainee.kind))
        self.steps += 1
        if self.trainee.after:
            self.trainee.after(self.steps)
        return loss

    def _step(self, batch: Batch) -> Tensor:
        self._clear()
        loss = self.trainee.loss(batch)
        loss.backward()
        self._descend()
        return loss.detach()

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _prepare(self) -> None:
        if self.trainee.before:
            self.trainee.before(self.steps + 1)

    def _descend(self) -> None:
        self._prepare()
        if self.optimizer:
            if self.trainee.clip:
                self.trainee.clip(self.parameters, CLIP)
            else:
                torch.nn.utils.clip_grad_norm_(self.parameters, CLIP, foreach=self.on_gpu)
            self.optimizer.step()

    # ---- the whole step as one graph -----------------------------------------------------------------------

    def _replay(self, batch: Batch) -> Tensor:
        captured = self._graphs.find(batch)
        if captured is None:
            self._warm_up(batch)
            captured = self._graphs.capture(self._step_and_gradients, batch)
        loss, gradients = captured.replay(batch)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient  # each graph has other ones
        return loss

    def _step_and_gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        return self._step(batch), [p.grad for p in self.parameters]

    def _warm_up(self, batch: Batch) -> None:
        with self._undone() if self.faithful else contextlib.nullcontext():
            aside(lambda: tuple(self._step(batch) for _ in range(WARM_UP)))
            torch.cuda.synchronize()
        self._clear()

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Restore weights and the optimizer's state in place afterwards, at the addresses that graphs read.

        Packed batches have several shapes: at the capture of a later one, steps of an earlier one have been taken.
        """
        before = {tensor: tensor.detach().clone() for tensor in self._changing()}
        yield
        with torch.no_grad():
            for tensor in self._changing():
                if tensor in before:
                    tensor.copy_(before[tensor])
                else:  # new state starts at zero
                    tensor.zero_()

    def _changing(self) -> Iterator[Tensor]:
        """All tensors that a step changes."""
        yield from self.parameters
        for state in self.optimizer.state.values() if self.optimizer else ():
            yield from state.values()

    # ---- as the command trains -----------------------------------------------------------------------------

    def _trained(self) -> Callable[[Batch], Tensor]:
        if self.on_gpu:
            self.optimizer = GraphedAdamW(self.parameters, max_norm=CLIP, lr=self.lr)
            self.optimizer.clip = self.trainee.clip or self.optimizer.clip
        graphed = GraphedStep(lambda batch: (self.trainee.loss(batch),), self.parameters)

        def step(batch: Batch) -> Tensor:
            graphed.zero()
            (loss,) = graphed(batch)
            if graphed.failure:
                raise RuntimeError(graphed.failure)
            if self.on_gpu:
                self._prepare()
                self.optimizer.step()  # clips by itself
            else:
                self._descend()
            return loss

        return step


def compile_core(trainee: Trainee) -> None:
    """Compile the model and its loss with torch.compile.

    The function gets a new code object, because torch.compile stores and limits its results by code object.
    """
    allow_recompilations(64)  # where a graph breaks, models share the code of their modules
    core = trainee.core
    code = core.__code__.replace(co_name=f"{core.__code__.co_name}_{id(core)}")
    own = types.FunctionType(code, core.__globals__, code.co_name, core.__defaults__, core.__closure__)
    trainee.core = torch.compile(own, dynamic=False)
