"""A training step as one CUDA graph per batch shape: one launch where eager PyTorch makes a thousand.

Steps on GLUE and E2E are short: their time goes to launching kernels. A graph replays the very kernels of the eager
step, so the numbers are the same, and capturing one takes a fraction of a second where compiling takes many.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from modules.acceleration.gradients import FlatGradients
from variants.acceleration.basics.policy import for_graph, is_for_graph
from variants.acceleration.basics.torch_private import expect_uncaptured_steps
from variants.errors import first_line

Batch = dict[str, Tensor]
Outputs = TypeVar("Outputs")


@dataclass
class CapturedGraph(Generic[Outputs]):
    """A function of a batch as a CUDA graph.

    Attributes:
        graph: the captured kernels.
        inputs: the tensors that they read, of the batch's shapes.
        outputs: what the function returned while it was captured; a replay writes into the same tensors.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Batch
    outputs: Outputs

    def replay(self, batch: Batch) -> Outputs:
        """The function of another batch of these shapes, on any device; valid until the next replay."""
        for name, tensor in self.inputs.items():
            tensor.copy_(batch[name], non_blocking=True)
        self.graph.replay()
        return self.outputs


class GraphCache(Generic[Outputs]):
    """CUDA graphs of one function, one for each shape of its batch. They share memory: only one runs at a time."""

    def __init__(self) -> None:
        self._graphs: dict[tuple, CapturedGraph[Outputs]] = {}
        self._pool = None

    def __len__(self) -> int:
        return len(self._graphs)

    @staticmethod
    def key(batch: Batch) -> tuple:
        """Names, shapes and dtypes of a batch's tensors."""
        return tuple((name, tensor.shape, tensor.dtype) for name, tensor in batch.items())

    def find(self, batch: Batch) -> CapturedGraph[Outputs] | None:
        """The graph for batches of this shape, if it has been captured."""
        return self._graphs.get(self.key(batch))

    def capture(self, compute: Callable[[Batch], Outputs], batch: Batch) -> CapturedGraph[Outputs]:
        """Capture ``compute`` for batches of this shape, on a GPU; see :func:`capture`."""
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph, outputs = capture(lambda: compute(inputs), self._pool)
        self._pool = graph.pool()
        found = self._graphs[self.key(batch)] = CapturedGraph(graph, inputs, outputs)
        return found


class GraphedStep:
    """Forward and backward pass of a batch, captured once a shape has come up more than ``patience`` times.

    Gradients are added to ``p.grad`` of every parameter, tensors that stay where they are; call :meth:`zero` before
    each accumulation, and :meth:`average` after it. On the CPU, and where capturing fails, every step is eager.

    Where graphs are captured, every step before is computed on the stream of captures: autograd hands a parameter's
    gradient over on the stream of the oldest pass whose graph is alive, a layer that notes what its pass computes keeps
    one alive from step to step, and what is captured may not have to do with any other stream.

    Of several processes each decides alone when it captures: no graph holds a message to the others, so that they may
    have batches of other shapes, and at most wait a moment.

    Args:
        compute: batch -> tensors, the first of which is the scalar to differentiate; the shape of the batch alone may
            decide what it does, without a look at values on the device.
        parameters: all that trains.
        graphs: whether to capture anything.
        patience: steps of one shape that are computed eagerly before its graph is captured: a rare shape is not worth
            a graph.
    """

    def __init__(
        self,
        compute: Callable[[Batch], tuple[Tensor, ...]],
        parameters: Iterable[nn.Parameter],
        graphs: bool = True,
        patience: int = 1,
    ) -> None:
        self.compute, self.graphs, self.patience = compute, graphs, patience
        self.parameters = list(dict.fromkeys(parameters))
        self.unused: list[nn.Parameter] = []
        """Parameters that the last eager step gave no gradient."""
        self.failure: str | None = None
        """Why no graph could be captured, if so."""
        self._gradients: FlatGradients | None = None
        self._seen: Counter = Counter()
        self._graphs: GraphCache[tuple[Tensor, ...]] = GraphCache()

    def zero(self) -> None:
        """Set all gradients to zero, in place."""
        self._gradients = self._gradients or FlatGradients(self.parameters)
        self._gradients.bind()
        self._gradients.zero()

    def average(self) -> None:
        """Replace the gradients by their mean over all processes."""
        self._gradients.average()

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs of ``compute`` for a batch on any device, detached; valid until the next call."""
        if captured := self._graphs.find(batch):
            return captured.replay(batch)
        key = GraphCache.key(batch)
        self._seen[key] += 1
        device = self.parameters[0].device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        if not self._captures():
            return self._eager(batch)
        outputs = aside(lambda: self._eager(batch), graph=(due := self._seen[key] > self.patience))
        if due:
            self._capture(batch)
        return outputs

    def _captures(self) -> bool:
        """Whether steps are captured as soon as their shape has come up often enough."""
        return self.graphs and self.failure is None and self.parameters[0].is_cuda

    def _eager(self, batch: Batch) -> tuple[Tensor, ...]:
        with without_weight_cache():
            outputs = self.compute(batch)
        found = torch.autograd.grad(outputs[0], self.parameters, allow_unused=True)
        self.unused = self._gradients.add(found)
        return tuple(output.detach() for output in outputs)

    def _capture(self, batch: Batch) -> None:
        """Capture the step that has just been taken: what is captured is not carried out, and the gradients need not be
        saved from it."""
        try:
            self._graphs.capture(self._eager, batch)
        except RuntimeError as error:
            self.failure = cause(error)
            warnings.warn(f"training steps are eager, as no CUDA graph can be captured: {self.failure}", stacklevel=3)


class GraphedAdamW(torch.optim.AdamW):
    """AdamW whose step, gradient clipping included, is one CUDA graph from the third step on.

    Groups keep their learning rates as plain numbers, so that schedulers, loggers and checkpoints find what they know.

    Args:
        params: as of AdamW, on a GPU; gradients must stay where they are.
        max_norm: of all gradients together; 0 for no clipping.
    """

    EAGER = 2  # the state comes to be in the first step

    def __init__(self, params: Iterable, *, max_norm: float = 0.0, **options) -> None:
        super().__init__(params, fused=True, capturable=True, **options)
        expect_uncaptured_steps(self)  # the first :attr:`EAGER` ones
        self.max_norm = max_norm
        self.clip: Callable[[list[Tensor], float], object] = torch.nn.utils.clip_grad_norm_
        self._done, self._graph = 0, None
        device = self.param_groups[0]["params"][0].device
        self._rates = torch.zeros(len(self.param_groups), device=device)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step; the learning rates of the groups are taken as they are now."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._rates.copy_(torch.tensor([float(group["lr"]) for group in self.param_groups]), non_blocking=True)
        if self._graph is not None:
            self._graph.replay()
        elif self._done < self.EAGER:
            self._update()
        else:
            self._update()  # this step; what is captured below is the next one's
            self._graph, _ = capture(self._update)
        self._done += 1
        return loss

    @torch.no_grad()
    def _update(self) -> None:
        plain = [group["lr"] for group in self.param_groups]
        try:
            for group, rate in zip(self.param_groups, self._rates, strict=True):
                group["lr"] = rate
            if self.max_norm:
                self.clip([p for g in self.param_groups for p in g["params"]], self.max_norm)
            super().step()
        finally:
            for group, rate in zip(self.param_groups, plain, strict=True):
                group["lr"] = rate


def aside(compute: Callable[[], tuple[Tensor, ...]], graph: bool = True) -> tuple[Tensor, ...]:
    """Carry out on the stream of captures what is to be captured: libraries set themselves up there, which they cannot
    do within a capture. With ``graph`` it is computed as a CUDA graph is to have it."""
    before, stream = torch.cuda.current_stream(), side_stream()
    stream.wait_stream(before)
    with for_graph(graph or is_for_graph()), torch.cuda.stream(stream):
        outputs = compute()
    before.wait_stream(stream)
    for output in outputs:
        output.record_stream(before)
    return outputs


def capture(compute: Callable[[], Outputs], pool: tuple | None = None) -> tuple[torch.cuda.CUDAGraph, Outputs]:
    """(the CUDA graph of ``compute``, what it returned while it was captured); captured work is not carried out.

    Args:
        compute: something that has been carried out before, see :func:`aside`.
        pool: memory to share with other graphs, where none runs while another's outputs are in use.

    Raises:
        RuntimeError: the work cannot be captured, as where it looks at values on the device.
    """
    before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    # other threads go on: NCCL's looks after its messages meanwhile
    captured = torch.cuda.graph(graph, pool=pool, stream=side_stream(), capture_error_mode="thread_local")
    try:
        with for_graph(), _uncollected(), captured:
            outputs = compute()
    except Exception:
        _repair(before)
        raise
    return graph, outputs


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """``with`` this, Python collects no garbage: destroying a graph that is part of it would spoil a capture."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _repair(stream: torch.cuda.Stream) -> None:
    """After a capture that failed: its stream is still the current one, and the generator of random numbers still
    thinks that it is being captured."""
    with contextlib.suppress(RuntimeError):  # if it cannot be, the next step says so
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros(1, device="cuda")
        torch.cuda.synchronize()


def cause(error: BaseException) -> str:
    """The first line of the error that came first: a capture that breaks off raises a second, vaguer one."""
    while error.__context__ is not None and "captur" in str(error):
        error = error.__context__
    return first_line(error)


@functools.cache
def side_stream() -> torch.cuda.Stream:
    """One for all captures: every stream costs the linear algebra libraries a workspace."""
    return torch.cuda.Stream()


@contextlib.contextmanager
def without_weight_cache() -> Iterator[None]:
    """Autocast casts weights anew at each use: a copy cached outside of a graph would never change inside it."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
