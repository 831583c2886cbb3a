"""How near training comes to what the hardware allows, beside PEFT and full fine-tuning, in one process.

    python paper_repro/efficiency.py                          # on a GPU four scenarios, on a CPU three small ones
    python paper_repro/efficiency.py --quick                  # fewer rounds
    python paper_repro/efficiency.py --scenarios compiled     # with torch.compile: half a minute for each way first
    python paper_repro/efficiency.py --scenarios host --precision bf16     # what an eager step costs the host, on a CPU
    python paper_repro/efficiency.py --ways "ours lora,limit" --modes graphs,trained
    python paper_repro/efficiency.py --job --data_dir GLUE    # whole jobs: RTE and MRPC against transformers' Trainer
    python paper_repro/efficiency.py --since COMMIT           # the embedded GLUE command, at that commit and now
    python paper_repro/efficiency.py --report_only            # table and plot from the result file

First the loss curves of ours and PEFT's from equal weights: a faster step must compute the same. Then every way of
taking a step (limit, full fine-tuning, ours and PEFT's LoRA, DoRA, VeRA, AdaLoRA; eager, CUDA graphs, as the command
trains) in turn within each round. No download: backbones have their published sizes and random weights. Written are
DEVICE.json, DEVICE.md and, with matplotlib (pip install -e ".[plots]"), DEVICE.png and .svg; a scenario that
is measured again replaces its entry. A way that fails is a row that says why. Without PEFT its rows are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from modules.command_line import guarded
from modules.paths import checkout
from variants.atomic import write_atomic
from variants.errors import UserError

FORMAT = 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--scenarios",
        type=names,
        default=(),
        help="base, glue, e2e, large, compiled, wide; host, small, small-glue, ...",
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
    add("--out", type=Path, default=Path("results/efficiency"), help="folder of the result files")
    add("--job", action="store_true", help="whole jobs in fresh processes, instead of steps")
    add("--data_dir", type=Path, default=None, help="GLUE's TSV folders, for --job (default: $GLUE_DIR)")
    add("--model", default=None, help="backbone of --job (default: written here, roberta-base with random weights)")
    add("--repeats", type=positive, default=1, help="of each whole job, in turn (default: 1)")
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
    return tuple(part.strip() for part in text.split(",") if part.strip())


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1, not {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.since:
        checkout("--since compares commits of a checkout: run it in one")
    import torch

    from modules.runs.environment import environment

    device = torch.device(options.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU that torch can use; take --device cpu")
    result = {"format": FORMAT, "environment": environment(str(device)), "peft": peft_version()}
    path = options.out / f"{slug(result['environment']['device'], device.type)}.json"
    path = Path(options.report_only or path)
    before = read(path)
    if options.report_only is not None:
        if not before:
            raise UserError(f"{path} does not exist: measure first, or name its folder with --out")
        return finish(path, before)
    kept = {"scenarios": {}, "curves": [], "jobs": [], "remarks": []}
    result |= {key: before.get(key, empty) for key, empty in kept.items()}
    if options.job or options.since:
        from modules.efficiency.whole_job import command_since, whole_jobs

        jobs = whole_jobs(options, device) if options.job else []
        jobs += [command_since(options.since, options.repeats)] if options.since else []
        result["jobs"] = [j for j in result["jobs"] if j["title"] not in {new["title"] for new in jobs}] + jobs
    else:
        run(options, device, result, path)
    return finish(path, result)


def run(options: argparse.Namespace, device: Any, result: dict[str, Any], path: Path) -> None:
    """Curves and scenarios into ``result``, saved after each."""
    import torch
    import transformers

    from modules.efficiency import implementations as ways
    from modules.efficiency import loss_curves as curves
    from modules.efficiency import measure
    from modules.efficiency import peft_implementation as peft_ways

    transformers.logging.set_verbosity_error()
    torch.backends.cuda.enable_cudnn_sdp(False)  # as in runs: it compiles a kernel for every shape that it meets
    if device.type == "cuda":
        result["remarks"] = ["No way uses cuDNN's attention, as no run does."]
    chosen = scenarios(options, device)
    on_gpu = device.type == "cuda"
    bf16 = (options.precision or ("bf16" if on_gpu else "fp32")) == "bf16"
    if unknown := set(options.modes) - set(ways.MODES):
        raise UserError(f"--modes: unknown {sorted(unknown)[0]!r}; the modes are {', '.join(ways.MODES)}")
    has_peft = peft_ways.available()
    if not has_peft:
        print("PEFT is not installed (pip install peft): its rows are left out, and no loss curves are compared")
    start = time.perf_counter()
    if options.curves != "off" and has_peft:
        for scenario in {s.shape: s for s in sorted(chosen, key=lambda s: len(s.methods))}.values():
            if scenario.shape == "roberta-large":
                continue  # the very code of roberta-base
            print(f"loss curves, {scenario.shape}")
            modes = tuple(m for m in ("eager", "graphs", "trained") if on_gpu or m == "eager")
            precisions = ("fp32", "bf16") if on_gpu and not options.quick else ("fp32",)
            for record in curves.compare(scenario, device, modes, precisions=precisions):
                others = [c for c in result["curves"] if curves.what(c) != curves.what(record)]
                result["curves"] = [*others, record]
                save(path, result)
    if options.curves == "only":
        return
    rounds = options.rounds or ((8 if options.quick else 20) if on_gpu else (3 if options.quick else 7))
    for scenario in chosen:
        modes = options.modes or scenario.modes
        these = ways.grid(scenario.methods, modes, options.ways, bf16, scenario.stacked, scenario.packed)
        these = [w for w in these if (has_peft or not w.library.startswith("peft"))]
        if not these:
            raise UserError(
                f"--ways and --modes leave nothing of {scenario.key}; ways are named as in 'ours lora graphs'"
            )
        passes = options.passes or (1 if scenario.lengths or not on_gpu else 2 if options.quick else 4)

        def keep(record: dict[str, Any], key: str = scenario.key) -> None:
            result["scenarios"][key] = record
            save(path, result)

        launches = on_gpu and not options.quick
        settings = {"bf16": bf16, "rounds": rounds, "passes": passes, "launches": launches}
        measure.measure(scenario, device, these, keep=keep, **settings)
    print(f"measured in {time.perf_counter() - start:.0f} s")


def scenarios(options: argparse.Namespace, device: Any) -> list:
    """What is to be measured, checked."""
    from modules.efficiency.measure import DEFAULT, SCENARIOS

    keys = options.scenarios or (DEFAULT[device.type] if not options.shape else tuple(SCENARIOS))
    if unknown := [key for key in keys if key not in SCENARIOS]:
        raise UserError(f"--scenarios: unknown {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    chosen = [SCENARIOS[key] for key in keys if not options.shape or SCENARIOS[key].shape in options.shape]
    if not chosen:
        shapes = dict.fromkeys(s.shape for s in SCENARIOS.values())
        raise UserError(f"--shape {','.join(options.shape)} leaves no scenario; the backbones are {', '.join(shapes)}")
    return chosen


def finish(path: Path, result: dict[str, Any]) -> int:
    """Table, plot and the names of the files."""
    from modules.efficiency.report import markdown, plot

    save(path, result)
    text = markdown(result)
    write_atomic(path.with_suffix(".md"), text)
    written = [path, path.with_suffix(".md")]
    print("\n" + text)
    if result["scenarios"]:
        try:
            plot(result, path.with_suffix(""))
            written += [path.with_suffix(".png"), path.with_suffix(".svg")]
        except UserError as lack:
            print(f"no plot: {lack}")
    print("written:", ", ".join(map(str, written)))
    return 0


def save(path: Path, result: dict[str, Any]) -> None:
    from modules.efficiency import thresholds as bars

    text = json.dumps(result | {"bars": bars.rows(result)}, indent=1)
    text = re.sub(
        r"\[\s+([-\d.,\se]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text
    )  # lists of numbers
    write_atomic(path, text + "\n")


def read(path: Path) -> dict[str, Any]:
    """The result file that is there, or nothing.

    Raises:
        UserError: it is no result file of this command.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a result file of this command: move it away, or choose another --out") from None
    return found


def slug(device: str, kind: str) -> str:
    """A file name such as ``nvidia-h100-80gb-hbm3`` or ``cpu-intel-xeon``."""
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|@.*|\bcpu\b|processor", " ", device.lower())).strip("-")
    return words if kind == "cuda" else f"cpu-{words}"


def peft_version() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("peft")
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(guarded(main))
