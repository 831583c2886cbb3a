"""Replicas of what trains, one in each process: whether they are still one and the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from variants.errors import UserError

ROUNDING = 1e-6
"""Sums of one tensor, relative to its norm, that GPUs of different kinds may give."""


@torch.no_grad()
def check_replicas(tensors: Mapping[str, Tensor]) -> None:
    """Whether all processes hold the same tensors: three sums of each are compared, which takes one short message.

    Raises:
        UserError: the first tensor that is another in some process, and in which.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1 or not tensors:
        return
    own = torch.stack([_sums(tensor) for tensor in tensors.values()])  # (n, 3)
    each = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(each, own)
    for index, name in enumerate(tensors):
        for rank, other in enumerate(each):
            expected = each[0][index]
            close = ROUNDING * expected[0].abs().nan_to_num().item()
            if not torch.allclose(other[index], expected, rtol=ROUNDING, atol=close, equal_nan=True):
                raise UserError(
                    f"{name} is another tensor on rank {rank} than on rank 0: the variant's state or its update "
                    "depends on the process; what is saved would be that of rank 0 alone"
                )


def _sums(tensor: Tensor) -> Tensor:
    """(3): the norm, the sum, and a sum with weights that differ from place to place; in fp64."""
    flat = tensor.detach().flatten().double()
    weights = torch.arange(len(flat), device=flat.device, dtype=flat.dtype).mul_(0.7).cos_()
    return torch.stack((flat.norm(), flat.sum(), flat @ weights))
