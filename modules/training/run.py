"""``run(config) -> RunResult``: trains and scores one (benchmark, task, backbone, variant, seed)."""

from __future__ import annotations

from modules.benchmarks.base import benchmark
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult
from modules.training.callbacks import History, Progress
from modules.training.lightning_module import FineTuner
from modules.training.record import make_result, notes
from modules.training.setup import initialise, leave_padding_out, optimisation, settle
from modules.training.trainer import CHECKPOINT, begin, fit, make_trainer
from modules.training.wandb_logger import finish_logging, make_logger
from variants.adapters.adapted_model import attach
from variants.registry import resolve


def run(config: RunConfig, live: bool | None = None) -> RunResult | None:
    """Train, score and store one run; goes on from its last checkpoint if there is one.

    Args:
        live: show a moving progress bar; by default where standard error is a terminal.

    Returns:
        The result as it was written, or None in a process that is not the first of several.
    """
    begin(config.seed)
    variant = resolve(config.variant)(**config.options)
    prepared = benchmark(config.benchmark).prepare(config)
    data, objective = prepared.data, prepared.objective
    precision, graphs = settle(prepared, config, variant)
    adapted = attach(prepared.model, variant, config.seed)
    counts = initialise(adapted, config, data)
    leave_padding_out(adapted, data, config)
    module = FineTuner(adapted, objective, graphs=graphs, **optimisation(config))
    prepared.model.train()  # from_pretrained leaves it in eval mode, and Lightning keeps what it finds
    history = History(objective.metric, config.folder, notes(config))
    logger = make_logger(config)
    checkpoint = config.folder / CHECKPOINT
    trainer = make_trainer(config, history, Progress(config.title, history, live), precision, checkpoint, logger)
    if objective.scores_frozen and not adapted.trained():
        trainer.validate(module, datamodule=data, verbose=False)
    else:
        fit(trainer, module, data, checkpoint)
    variant_metrics = adapted.metrics()
    test = objective.test(module, adapted, config.folder)
    if not trainer.is_global_zero:
        return None
    result = make_result(config, prepared, history, trainer)
    result.test, result.parameters, result.variant_metrics = test, counts, variant_metrics
    result.wandb_id = finish_logging(logger, result)
    ResultStore(config.results_dir).write(result)
    checkpoint.unlink(missing_ok=True)
    return result
