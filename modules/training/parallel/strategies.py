"""How a run is spread over several processes: Lightning's strategies, as the project uses them."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.ddp import _sync_module_states

from modules.runs.ranks import longest_wait


class Replicated(DDPStrategy):
    """Every process holds the whole model, takes its rows of each batch, and averages all gradients at once, as
    :meth:`TrainingStep.average` does before the optimizer's step.

    It is data parallelism without DistributedDataParallel, whose hooks on every parameter no CUDA graph could hold.
    """

    def configure_ddp(self) -> None:
        """Give every process the first one's parameters and buffers, as DistributedDataParallel does."""
        _sync_module_states(self.lightning_module)


def without_questions(trainer: Trainer) -> None:
    """Let processes go ahead of their devices: Lightning (2.6) asks the first process before every step whether it got
    SIGTERM, and waits for the device to hear the answer. Whoever starts the processes ends all of them."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def strategy(name: Any, averages: bool) -> Strategy | Any:
    """Lightning's strategy of a run in several processes.

    Args:
        name: the Trainer's option.
        averages: whether the run's own step averages gradients; else DistributedDataParallel does.

    Returns:
        A strategy; ``name`` as it is where it is none of the project's.
    """
    if name not in ("auto", "ddp"):
        return name
    if averages:
        return Replicated(timeout=longest_wait())
    # every rank computes the same buffers (a shared bank from its seed): no need to send them at each step
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True, timeout=longest_wait())
