"""How a run is spread over several processes: Lightning's strategies, as the project uses them."""

from __future__ import annotations

import atexit
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.ddp import _sync_module_states
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.device_mesh import init_device_mesh

from modules.runs.ranks import launched, longest_wait
from modules.training.parallel.sharded import shard_base
from variants.wrappers import is_sharded


class Spread(DDPStrategy):
    """DistributedDataParallel, whose processes meet by a name of their run.

    torchrun keeps one store for all runs of a command. There a process that is ahead would find the addresses at which
    the processes of the run before listened.
    """

    def __init__(self, run: str, **options: Any) -> None:
        super().__init__(timeout=longest_wait(), **options)
        self.run = run

    def setup_distributed(self) -> None:
        """Under torchrun as Lightning's, with another store; elsewhere as Lightning's."""
        if launched() and dist.is_torchelastic_launched() and not dist.is_initialized():
            backend, device = self._get_process_group_backend(), self.root_device
            store, number, count = next(dist.rendezvous("env://", timeout=self._timeout))
            dist.init_process_group(
                backend,
                store=dist.PrefixStore(self.run, store),
                rank=number,
                world_size=count,
                timeout=self._timeout,
                device_id=None if device.type == "cpu" else device,
            )
            if backend == "nccl":  # which would warn
                atexit.register(dist.destroy_process_group)
        super().setup_distributed()


class Replicated(Spread):
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
    if trainer.world_size > 1:  # its handler of SIGTERM sends a message that nobody waits for, and hangs
        trainer._signal_connector.register_signal_handlers = lambda: None


class Sharded(Replicated):
    """The same, but the frozen base is in shards, one on each device (`modules.training.parallel.sharded`).

    What trains is replicated, so that gradients, checkpoints and adapter files are those of :class:`Replicated`:
    Lightning's ModelParallelStrategy would write both as one folder for all processes, in a format of its own.
    """

    def setup(self, trainer: Trainer) -> None:
        """As DDPStrategy's; nothing asks for parameters of the base."""
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self.lightning_module)
        self.model_to_device()
        self.configure_ddp()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def model_to_device(self) -> None:
        """Move the model to the device, of each block a shard."""
        adapted = self.lightning_module.adapted
        if not is_sharded(adapted.model):
            if self.is_global_zero:  # which writes the files
                adapted.note_base()
            shard_base(adapted, init_device_mesh(self.root_device.type, (self.world_size,)))
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Give every process the first one's adapter; each has read the same base."""
        for tensor in self.lightning_module.adapted.state_dict().values():
            dist.broadcast(tensor, 0)

    def teardown(self) -> None:
        """Leave the model where it is: one in shards does not come back to the host."""
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def strategy(name: str, averages: bool, run: str) -> Strategy:
    """Lightning's strategy of a run in several processes.

    Args:
        name: the Trainer's option, one of `modules.runs.trainer_options.STRATEGIES`.
        averages: whether the run's own step averages gradients; else DistributedDataParallel does.
        run: its id.
    """
    if name == "fsdp2":
        return Sharded(run)
    if averages:
        return Replicated(run)
    # every rank computes the same buffers (a shared bank from its seed): no need to send them at each step
    return Spread(run, broadcast_buffers=False, gradient_as_bucket_view=True)
