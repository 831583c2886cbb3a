"""What a variant costs when the model is used: the LoRA paper's Table 1, measured in one run.

    python paper_repro/latency.py                                     GPT-2 medium's shape on this machine
    python paper_repro/latency.py --device cuda                       the settings of Table 1, 100 rounds
    python paper_repro/latency.py --draw results/latency/gpt2-medium-cuda.json      the figure of a result file, anew
    python paper_repro/latency.py --model roberta-base --variants lora,dora,adapter_p --settings 1x128x0.3M,32x128x0.3M

One forward pass of random text through a model with random weights: neither changes the time, and nothing is
downloaded. Each variant has the size nearest to the setting's number of trained parameters, and values away from its
start. Ways are taken in turn within each round, and figures are ratios to the plain model in the same round: median and
quartiles. "plain, a copy" is the plain model again, in other memory: what it differs from 1 by is noise. A merged LoRA
is measured as merge() leaves it, its hooks asleep; the folder that python -m variants.merge writes is a plain model.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from modules.efficiency.inference_latency import PAPER, SMALL, Setting, as_text, build, draw, measure, redraw, sized
from variants.atomic import write_atomic
from variants.errors import UserError


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", default="gpt2-medium", help="shape of params.py, folder, embedded or Hub id (default: gpt2-medium)")
    add("--variants", default="lora,adapter_h,adapter_l", help="comma list (default: lora,adapter_h,adapter_l)")
    add("--settings", help=f"comma list of BATCHxLENGTHxPARAMETERS (default: {PAPER} on a GPU, else {SMALL})")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    add(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the model (default: float32)"
    )
    add("--rounds", type=int, help="(default: 100 on a GPU, as in the paper, else 12)")
    add("--out", type=Path, default=Path("results/latency"), help="folder (default: results/latency)")
    add("--no_plots", action="store_true", help="no figure, and no need of matplotlib")
    add("--draw", type=Path, metavar="JSON", help="draw the figure of this result file, beside it, and measure nothing")
    options = parser.parse_args(argv)
    gpu = options.device.startswith("cuda")
    options.settings = [Setting.read(part) for part in (options.settings or (PAPER if gpu else SMALL)).split(",")]
    options.rounds = (100 if gpu else 12) if options.rounds is None else options.rounds
    if options.rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {options.rounds}")
    return options


def checked(options: argparse.Namespace):
    """The model without weights, once all that can be wrong is ruled out: before the long part."""
    from modules.efficiency.timing import synchronizer
    from modules.reports.plots.image_files import require_matplotlib

    if not options.no_plots:
        require_matplotlib()
    synchronizer(options.device)
    shapes = build(options.model, "meta")
    longest = getattr(shapes.config, "max_position_embeddings", None)
    for setting in options.settings:
        if longest and setting.length > longest:
            raise UserError(f"--settings: {options.model} has {longest} positions, fewer than {setting.length}")
        for spec in options.variants.split(","):
            sized(spec, setting, shapes)
    return shapes


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.draw:
        return redraw(options.draw)
    import torch

    from modules.runs.environment import environment

    shapes = checked(options)
    torch.manual_seed(0)
    plain = build(options.model, options.device).to(getattr(torch, options.dtype)).eval().requires_grad_(False)
    plain.config.use_cache = False  # one pass, nothing to go on from
    result: dict[str, Any] = {"model": options.model, "dtype": options.dtype, "rounds": options.rounds}
    result |= {"threads": torch.get_num_threads(), "settings": []}
    for setting in options.settings:
        record = measure(plain, shapes, options.variants.split(","), setting, options.rounds)
        result["settings"].append(record)
        print(as_text(options.model, record), flush=True)
    result["environment"] = environment(options.device)
    words = [options.model, options.device.partition(":")[0], *([options.dtype] if options.dtype != "float32" else [])]
    path = options.out / re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(words)).strip("-")
    write_atomic(path.with_name(f"{path.name}.json"), json.dumps(result, indent=1) + "\n")
    if not options.no_plots:
        draw(path, result)
    print(f"written: {path}.json" + ("" if options.no_plots else f" {path}.png {path}.svg"))
    return 0


if __name__ == "__main__":
    from modules.command_line import guarded

    sys.exit(guarded(main))
