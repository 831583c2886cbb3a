"""LoRA's rank and learning rate by Optuna, from Python. `compare.py` does the same from a file: docs/sweeps.md.

pip install -e ".[sweep]" && python examples/optuna_sweep.py
"""

from pathlib import Path
from typing import Any

import optuna

from modules import train


def main(trials: int = 10, results_dir: str = "results/optuna", **settings: Any) -> optuna.Study:
    """Search; a further call goes on with the same study.

    Args:
        settings: further ones of `train`, such as ``epochs=2``.
    """

    def score(trial: optuna.Trial) -> float:
        r = trial.suggest_categorical("r", [2, 4, 8, 16])
        lr = trial.suggest_float("lr", 5e-4, 2e-2, log=True)
        result = train("lora", task="rte", preset="embedded", seed=42, r=r, lr=lr, results_dir=results_dir, **settings)
        if result.score is None:  # it diverged or was truncated
            raise optuna.TrialPruned
        return result.score

    Path(results_dir).mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{results_dir}/optuna.db"
    study = optuna.create_study(study_name="lora", storage=storage, direction="maximize", load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # the same search in every folder; it goes on
    study.optimize(score, n_trials=trials)
    return study


if __name__ == "__main__":
    study = main()
    print(f"best: {study.best_value:.1%} with {study.best_params}")
