"""What runs will cost: optimizer steps from the numbers of rows, hours from a few steps of a model of the right shape.

The measured model has random weights and is built from its configuration, so nothing is downloaded. Its time is
measured at two sizes of batch and taken as a straight line in the tokens of a batch, padding included.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modules.embedded import is_embedded
from modules.launch.progress_line import runs_text
from modules.paths import PUBLISHED
from modules.reports.tables.published import load_models
from modules.reports.tables.section import short_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from modules.experiments.published_runs import PlannedRun


WIDTHS: dict[str, dict[int, int]] = {
    "mnli": {4: 73, 16: 98, 32: 110, 64: 124},
    "sst2": {4: 30, 16: 43, 32: 48, 64: 52},
    "mrpc": {4: 82, 16: 95, 32: 96, 64: 97},
    "cola": {4: 19, 16: 24, 32: 26, 64: 29},
    "qnli": {4: 84, 16: 108, 32: 120, 64: 134},
    "qqp": {4: 53, 16: 71, 32: 83, 64: 95},
    "rte": {4: 142, 16: 196, 32: 217, 64: 235},
    "stsb": {4: 53, 16: 77, 32: 87, 64: 95},
    "e2e": {4: 86, 8: 93, 16: 96},
}
"""By task: rows of a batch -> mean width of random training batches padded to the length buckets. Measured on the
official rows (QNLI, QQP, MNLI: samples) in the byte pairs of GPT-2 and RoBERTa, special tokens included; E2E on the
LoRA authors' text."""
LETTERS, LONGEST = 4, 2.7
"""Of other rows: letters of a token, and how much wider than a mean row a batch is (GLUE: 1.7 to 3.6 times)."""
ROW = 32  # tokens per row of the measured batches
LIMIT = {"cpu": 512, "cuda": 16_384}  # tokens of the largest measured batch
ROUNDS = {"cpu": (1, 2), "cuda": (5, 10)}  # steps before the clock starts, and steps that count


class Unknown(Exception):
    """Why there is no estimate of hours."""


def width(run: PlannedRun) -> int:
    """Tokens per row of a typical training batch of the run, padding included."""
    settings = run.settings
    if settings.pad == "max":
        return settings.max_length
    if run.recipe.task not in WIDTHS:
        return min(settings.max_length, math.ceil(LONGEST * (run.letters or LETTERS * settings.max_length) / LETTERS))
    known = WIDTHS[run.recipe.task]
    return min(settings.max_length, known[min(known, key=lambda rows: abs(rows - settings.batch_size))])


def cost_lines(runs: Sequence[PlannedRun]) -> list[str]:
    """A line per variant and model, a line that sums up, and what was measured."""
    groups: dict[tuple, list[PlannedRun]] = {}
    for run in runs:
        sizes = {k: v for k, v in run.variant.options().items() if k in ("r", "p", "target", "init_r")}
        groups.setdefault((run.model, run.wishes.variant, run.wishes.preset, str(sizes)), []).append(run)
    lines, notes, total, unknown = [], [], 0.0, 0
    for (model, variant, preset, _), group in groups.items():
        line = f"{variant} on {short_name(model)} ({preset}): {runs_text(len(group))}, {_steps(group)}"
        try:
            hours, note = _hours(group)
            total += hours
            notes.append(note)
            lines.append(f"{line}, about {hours_text(hours)}")
        except Unknown as reason:
            unknown += 1
            lines.append(f"{line}; hours left out: {reason}")
    if not groups:
        return ["nothing is missing"]
    together = f"together: {runs_text(len(runs))}, {_steps(runs)}"
    if unknown < len(groups):
        together += f", about {hours_text(total)} on one such device"
        if unknown:
            together += f", without {unknown} of the lines above"
    return [*lines, together, *dict.fromkeys(notes)]


def _steps(runs: Sequence[PlannedRun]) -> str:
    return f"{sum(run.steps for run in runs):,} optimizer steps"


def hours_text(hours: float) -> str:
    """Such an estimate has two digits at most."""
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"


def _hours(group: Sequence[PlannedRun]) -> tuple[float, str]:
    """(hours of some runs of one variant on one model, a line about what was measured)."""
    import torch

    from modules.runs.environment import device_name

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = {id(run): run.settings.batch_size * width(run) for run in group}
    try:
        seconds = measure(group[0], min(tokens.values()), max(tokens.values()), device)
    except torch.cuda.OutOfMemoryError:
        raise Unknown("the model does not fit this device's memory") from None
    total = 0.0
    for run in group:
        train, evaluate = seconds(tokens[id(run)])
        evaluations = run.settings.epochs * run.rows[1] / run.settings.batch_size
        total += run.steps * train + evaluations * evaluate
    what = "training and the dev set after each epoch" if group[0].rows[1] else "training alone, without decoding"
    name = device_name("cuda:0" if device == "cuda" else "cpu")
    precision = group[0].settings.precision
    note = f"times are of {what}: estimated from a few steps of random weights of this shape on {name} ({precision})"
    return total / 3600, note


def measure(run: PlannedRun, fewest: int, most: int, device: str) -> Callable[[int], tuple[float, float]]:
    """Seconds of (a training step, a forward pass without gradients) as a function of the tokens in its batch."""
    import torch

    from variants.adapters.adapted_model import attach

    if not run.wishes.benchmark.auto_class.startswith("Auto"):
        raise Unknown("steps of image models are not estimated")
    model = shape(run).to(device)
    adapted = attach(model, run.variant, 0)
    groups = adapted.param_groups(1e-4) if adapted.trained() else []
    optimizer = torch.optim.AdamW(groups) if groups else None
    causal = run.wishes.benchmark.auto_class == "AutoModelForCausalLM"
    dtype = torch.bfloat16 if "bf16" in run.settings.precision else torch.float16
    mixed = "16" in run.settings.precision

    def loss(rows: int):
        ids = torch.randint(10, min(500, model.config.vocab_size), (rows, ROW), device=device)
        labels = ids if causal else torch.zeros(rows, dtype=torch.long, device=device)
        with torch.autocast(device, dtype) if mixed else contextlib.nullcontext():
            return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss

    def train(rows: int) -> None:
        value, penalty = loss(rows), adapted.penalty(1, 1)
        (value if penalty is None else value + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()

    def evaluate(rows: int) -> None:
        with torch.no_grad():
            loss(rows)

    high = min(max(most, 2 * ROW), LIMIT[device])
    low = max(ROW, min(fewest, high // 4))
    points = []
    for tokens in (low // ROW * ROW, high // ROW * ROW):
        model.train()
        step = _seconds(lambda rows=tokens // ROW: train(rows), device) if optimizer else 0.0
        model.eval()
        points.append((tokens, step, _seconds(lambda rows=tokens // ROW: evaluate(rows), device)))
    return lambda tokens: tuple(_line([(p[0], p[k]) for p in points], tokens) for k in (1, 2))


def shape(run: PlannedRun) -> PreTrainedModel:
    """A model of the run's shape with random weights.

    Raises:
        Unknown: its configuration is not at hand, or it is too large for this machine.
    """
    import torch

    build = _builder(run)
    with torch.device("meta"):
        size = sum(parameter.nbytes for parameter in build().parameters())
    if size > memory() / 2:
        gb = 1e9
        raise Unknown(f"its weights take {size / gb:.0f} GB, more than half of this machine's {memory() / gb:.0f} GB")
    return build()


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _builder(run: PlannedRun) -> Callable[[], PreTrainedModel]:
    """Makes the model of the run's shape. Raises Unknown where its configuration is not at hand."""
    import transformers

    from modules.backbones.loading import resolve
    from modules.backbones.model_config import check_sizes, read_config
    from modules.hub import hub_cached

    transformers.logging.set_verbosity_error()
    own = run.wishes.benchmark
    published = load_models(PUBLISHED).get(short_name(run.model))
    if is_embedded(run.model) or Path(run.model).expanduser().is_dir():
        folder = resolve(run.model, own.embedded())[2]
    elif published:
        check_sizes(published["config"], run.model)
        model_class = getattr(transformers, published["class"])
        return lambda: model_class(model_class.config_class(**published["config"]))
    elif hub_cached(model=run.model):
        folder = resolve(run.model)[2]
    else:
        raise Unknown(f"the shape of {run.model} is not known here")
    read_config(folder)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return lambda: getattr(transformers, own.auto_class).from_config(config, trust_remote_code=False)


def _seconds(step: Callable[[], None], device: str) -> float:
    """Median time of a step."""
    import torch

    times = []
    before, counted = ROUNDS[device]
    for round in range(before + counted):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if round >= before:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _line(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """The straight line through two points at `tokens`; a share of the larger one where it would fall."""
    (x0, y0), (x1, y1) = points
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
    intercept = y0 - slope * x0
    return intercept + slope * tokens if slope > 0 and intercept > 0 else y1 * tokens / x1
