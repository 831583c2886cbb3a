"""How near training comes to what the hardware allows, compared with PEFT and full fine-tuning, in one process.

    python paper_repro/efficiency.py                          # on a GPU four scenarios, on a CPU three small ones
    python paper_repro/efficiency.py --quick                  # fewer rounds
    python paper_repro/efficiency.py --scenarios compiled     # with torch.compile: half a minute for each way first
    python paper_repro/efficiency.py --scenarios methods      # every adapter at one size, as a multiple of LoRA's
    python paper_repro/efficiency.py --scenarios unet         # Stable Diffusion 1.5's UNet, PEFT as diffusers has it
    python paper_repro/efficiency.py --scenarios host --precision bf16     # what an eager step costs the host, on a CPU
    python paper_repro/efficiency.py --ways "ours lora,limit" --modes graphs,trained
    python paper_repro/efficiency.py --job --data_dir GLUE    # whole jobs: RTE and MRPC against transformers' Trainer
    python paper_repro/efficiency.py --scaling --data_dir GLUE --e2e_dir E2E    # 1, 2, ... all GPUs, PEFT beside
    python paper_repro/efficiency.py --since COMMIT           # the embedded GLUE command, at that commit and now
    python paper_repro/efficiency.py --reference --ways "ours,limit"       # ours with and without its acceleration
    python paper_repro/efficiency.py --report_only            # table and plot from the result file

First the loss curves of ours and PEFT's from equal weights: a faster step must compute the same. Then every way to
take a step (limit, full fine-tuning, ours and PEFT's LoRA, DoRA, VeRA, AdaLoRA; eager, CUDA graphs, as the command
trains) in turn within each round. No download: backbones have their published sizes and random weights. Written are
DEVICE.json, DEVICE.md and, with matplotlib (pip install -e ".[plots]"), DEVICE.png and .svg; a scenario that
is measured again replaces its entry. A way that fails is a row with the reason. Without PEFT its rows are left out.

--scaling writes DEVICE-xN files: weak and strong scaling, PEFT under accelerate on all GPUs, and what up to 64 GPUs
would give, planned on paper. A first round of everything comes before the further rounds of --repeats.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import Parser, guarded, place


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--scenarios",
        type=names,
        default=(),
        help="base, glue, e2e, large, compiled, wide, methods, unet; host, small, small-methods, unet-small, ...",
    )
    add("--shape", type=names, default=(), help="only scenarios of these backbones, such as roberta-base")
    add("--ways", type=names, default=(), help="beginnings or globs of ways' names, such as 'ours lora,peft*'")
    add("--modes", type=names, default=(), help="eager, compiled, graphs, compiled+graphs, trained")
    add("--rounds", type=positive, default=None, help="rounds in which all ways take turns (GPU: 20, CPU: 7)")
    add("--passes", type=positive, default=None, help="passes over the batches in each round (default: what fits)")
    add("--quick", action="store_true", help="fewer rounds, no launches, curves in fp32 alone")
    add("--curves", choices=("on", "off", "only"), default="on", help="loss curves against PEFT's first (default: on)")
    add("--precision", choices=("bf16", "fp32"), default=None, help="default: bf16 on a GPU, fp32 on a CPU")
    add("--device", default=None, help="cuda or cpu (default: what is here)")
    add("--reference", action="store_true", help="also measure ours without acceleration: ways named ours-reference")
    add("--out", type=place, default=Path("results/efficiency"), help="folder of the result files")
    add("--job", action="store_true", help="whole jobs in fresh processes, instead of steps")
    add("--data_dir", type=place, default=None, help="GLUE's TSV folders, for --job and --scaling (default: $GLUE_DIR)")
    add("--e2e_dir", type=place, default=None, help="E2E's CSV files, for --scaling (default: $E2E_DIR)")
    add("--scaling", action="store_true", help="the commands on 1, 2, ... all visible GPUs, instead of steps")
    add("--network_gbps", type=above_zero, help="Gbit/s between hosts that --scaling's plan assumes (default: 400)")
    add("--network_us", type=above_zero, help="microseconds of a message between hosts, likewise (default: 5)")
    add("--model", default=None, help="backbone of --job (default: written here, roberta-base with random weights)")
    add("--repeats", type=positive, default=1, help="of each whole job, and rounds of --scaling (default: 1)")
    add("--epochs", type=positive, default=3, help="of each whole job (default: 3)")
    add("--tasks", type=names, default=("rte", "mrpc"), help="of the whole jobs (default: rte,mrpc)")
    add("--since", default=None, metavar="COMMIT", help="the README's embedded command, then and now, instead of steps")
    add(
        "--report_only",
        nargs="?",
        const="",
        metavar="FILE",
        help="table and plot anew from this machine's file or FILE",
    )
    return parser.parse_args(argv)


def names(text: str) -> tuple[str, ...]:
    """The parts of a comma list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1, not {text!r}")
    return int(text)


def above_zero(text: str) -> float:
    """A number above 0."""
    with contextlib.suppress(ValueError):
        if math.inf > float(text) > 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    if options.since:
        from modules.paths import checkout

        checkout("--since compares commits of a checkout: run it in one")
    from modules.efficiency.session import run

    return run(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
