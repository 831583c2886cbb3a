"""LoRA's rank and learning rate by Ray Tune, several trials at once.

pip install "ray[tune]" && python examples/ray_tune.py
"""

from pathlib import Path
from typing import Any

from ray import tune

from modules import train


def main(trials: int = 10, results_dir: str = "results/ray", **settings: Any) -> tune.Result:
    """Search; the best trial. ``settings``: further ones of `train`, such as ``epochs=2``."""
    folder = str(Path(results_dir).absolute())  # trials run in folders of their own

    def trial(options: dict[str, Any]) -> None:
        result = train("lora", task="rte", preset="embedded", seed=42, results_dir=folder, **options, **settings)
        tune.report({"score": float("-inf") if result.score is None else result.score})  # None: it has none

    space = {"r": tune.choice([2, 4, 8, 16]), "lr": tune.loguniform(5e-4, 2e-2)}
    search = tune.TuneConfig(metric="score", mode="max", num_samples=trials)
    kept = tune.RunConfig(storage_path=folder, name="ray")
    return tune.Tuner(trial, param_space=space, tune_config=search, run_config=kept).fit().get_best_result()


if __name__ == "__main__":
    best = main()
    print(f"best: {best.metrics['score']:.1%} with {best.config}")
