"""Times of an all-reduce of flat fp32 buffers, a job of several processes.

python -m modules.efficiency.scaling.allreduce_job SETTINGS.json     # in each, with torchrun's variables
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from modules.processes import end_with_parent
from variants.atomic import write_atomic

WARM_UP, TIMES = 10, 50


def main(settings: dict[str, Any]) -> None:
    """Measure, and write ``result`` on rank 0: ``bytes`` and ``ms``, the median of 50 for each size.

    Args:
        settings: ``bytes`` of the buffers, ``gpu``, ``result``.
    """
    rank, gpu = int(os.environ["LOCAL_RANK"]), settings["gpu"]
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
    times = [_median_ms(torch.ones(size // 4, device=device)) for size in settings["bytes"]]
    if rank == 0:
        write_atomic(Path(settings["result"]), json.dumps({"bytes": settings["bytes"], "ms": times}))
    dist.destroy_process_group()


def _median_ms(buffer: torch.Tensor) -> float:
    """As the device sees it on a GPU, where the host runs ahead; else as the host does."""
    for _ in range(WARM_UP):
        dist.all_reduce(buffer)
    if buffer.is_cuda:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(TIMES + 1)]
        events[0].record()
        for event in events[1:]:
            dist.all_reduce(buffer)
            event.record()
        torch.cuda.synchronize()
        found = [first.elapsed_time(second) for first, second in zip(events, events[1:], strict=False)]
    else:
        found = []
        for _ in range(TIMES):
            start = time.perf_counter()
            dist.all_reduce(buffer)
            found.append(1000 * (time.perf_counter() - start))
    return round(float(torch.tensor(found).median()), 5)


if __name__ == "__main__":
    end_with_parent()
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
