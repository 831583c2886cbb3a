"""What a run asks of an image model: the loss of its own scheduler, pictures of fixed noise, scores after training."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from torch import nn

from modules.backbones.diffusion.image_model import ImageModel
from modules.backbones.diffusion.noising import Noising
from modules.benchmarks.dreambooth.data import TOLD
from modules.benchmarks.dreambooth.grids import write_grid
from modules.benchmarks.dreambooth.painting import Painter
from modules.benchmarks.dreambooth.scores import Painted, scored
from modules.benchmarks.dreambooth.similarity import Similarity
from modules.benchmarks.dreambooth.sources import PictureSplit
from modules.benchmarks.dreambooth.tasks import LOSS
from modules.benchmarks.objective import Batch, Losses, Objective
from modules.documents import read_text
from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.native import restore
from variants.layer import AdapterLayer
from variants.methods.lora import LoRA

PICTURES = "pictures"
"""The folder of grids in a run's folder."""
PARTS, STRONGER = ("test", "kept"), "stronger"


def full_rank(layer: AdapterLayer) -> int:
    """The rank that any update of a layer's site has at most."""
    return min(layer.site.out_features, layer.site.in_features)


class Denoising(Objective):
    """The mean squared error of the model's output, in fp32, weighted as `Noising` says.

    Args:
        image_model: whose denoiser is trained.
        noising: how noise is added.
        painter: paints; also what the frozen model paints.
        splits: "train", "test", and "kept" where there is one.
        train: the training pictures (N, H, H, 3) as they are trained on.
        shown: prompts that are painted after each epoch.
        folder: of the run.
        score_epoch: "best", "last", or "none", which paints nothing after training.
        similarity: models of further scores.
        strengths: of the update, at which pictures are scored too.
    """

    metric = LOSS
    scores_frozen = True

    def __init__(
        self,
        image_model: ImageModel,
        noising: Noising,
        painter: Painter,
        splits: dict[str, PictureSplit],
        train: np.ndarray,
        shown: Sequence[str],
        folder: Path,
        score_epoch: str,
        similarity: Similarity | None = None,
        strengths: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.image_model, self.noising, self.painter = image_model, noising, painter
        self.splits, self.train_pictures, self.shown = splits, train, list(shown)
        self.folder, self.score_epoch, self.similarity = folder, score_epoch, similarity
        self.strengths = tuple(strengths)
        self.base: dict[str, np.ndarray] = {}
        if "kept" in splits and score_epoch != "none":
            self.base["kept"] = painter.frozen(splits["kept"].prompts)  # before an adapter is on the model

    def losses(self, model: nn.Module, batch: Batch, training: bool) -> Losses:
        """See `Objective`."""
        noised = self.noising(batch["latents"], batch["noise"], batch["levels"])
        told = {name.removeprefix(TOLD): value for name, value in batch.items() if name.startswith(TOLD)}
        found = self.image_model.predict(model, noised.latents, noised.times, told)
        losses = (found.float() - noised.target).square().flatten(1).mean(1)
        return noised.weights * losses, batch["weight"], None

    def of_loss(self, loss: float) -> dict[str, float]:
        """The held-out loss with its sign turned."""
        return {LOSS: -loss}

    def figures(self, module: LightningModule) -> dict[str, float]:
        """None; paints `shown`, always from the same noise."""
        if self.shown and module.trainer.is_global_zero and not module.trainer.sanity_checking:
            write_grid(self.grid(module.trainer.current_epoch + 1), list(self.painter.painted(self.shown)[0]))
        return {}

    def figures_of_each(self, module: LightningModule, each: Sequence[Objective]) -> list[dict[str, float]]:
        """Of stacked adapters nothing is painted between epochs."""
        return [self.figures(module)] if len(each) == 1 else [{} for _ in each]

    def copies(self, size: int) -> list[Objective]:
        """See `Objective`: they share the model."""
        return [self, *(copy.copy(self) for _ in range(size - 1))]

    def grid(self, epoch: int) -> Path:
        """The file of an epoch's pictures."""
        return self.folder / PICTURES / f"epoch-{epoch:03d}.png"

    def pictures(self, folder: Path) -> dict[str, Path]:
        """The newest grid of the run in ``folder``, for dashboards."""
        files = sorted((folder / PICTURES).glob("epoch-*.png"))
        return {"pictures": files[-1]} if files else {}

    # ---- after training ----------------------------------------------------------------------------------------

    def test(self, module: LightningModule, adapted: AdaptedModel, folder: Path) -> dict[str, Any] | None:
        """The scores of the prompts of "test" and "kept"."""
        trained = (lambda _, file: restore(adapted, file)) if adapted.trained() else None
        return self.test_each(module, trained, [folder])[0]

    def _at_strengths(self, adapted: AdaptedModel) -> dict[str, float]:
        """The scores with the update of the active adapter multiplied by each strength, such as ``taught_at_0.5``; none
        of a method that has no such update, which is said."""
        name, found = adapted.active, {}
        for strength in self.strengths:
            try:
                rank = None if type(adapted.variant) is LoRA else max(map(full_rank, adapted.layers), default=1)
                adapted.combine({name: strength}, STRONGER, rank)
            except VariantError as error:
                print(f"no scores at other strengths: {error}", flush=True)
                break
            test, kept = (self.painter.painted(self.splits[s].prompts)[0] if s in self.splits else None for s in PARTS)
            found |= {f"{score}_at_{strength:g}": value for score, value in self._figures(test, kept).items()}
            adapted.delete(STRONGER)
            adapted.switch(name)
        return found

    def test_each(
        self, module: LightningModule, restore: Callable[[int, Path], None] | None, folders: Sequence[Path]
    ) -> list[dict[str, Any] | None]:
        """The scores of each stacked adapter, which paint together; leaves grids and prompts in the runs' folders."""
        if self.score_epoch == "none":
            return [None] * len(folders)
        _, epochs = self.bring_back(module, restore, folders, self.score_epoch)
        if not module.trainer.is_global_zero:
            return [None] * len(folders)
        module.to(module.trainer.strategy.root_device)
        module.eval()
        test = self.painter.painted(self.splits["test"].prompts, len(folders))
        kept = self.painter.painted(self.splits["kept"].prompts, len(folders)) if self.base else [None] * len(folders)
        found = [self._scored(*each) for each in zip(test, kept, folders, epochs, strict=True)]
        if self.strengths and restore and len(folders) == 1:
            found[0] |= self._at_strengths(module.adapted)
        return found

    def _scored(self, test: np.ndarray, kept: np.ndarray | None, folder: Path, epoch: int) -> dict[str, Any]:
        """Leave grids and prompts in a run's folder; its figures."""
        prompts = self._prompts()
        write_grid(folder / PICTURES / "test.png", list(test))
        if kept is not None:
            write_grid(folder / PICTURES / "kept.png", list(kept))
        write_atomic(folder / PICTURES / "prompts.json", json.dumps({"test": prompts}, indent=1) + "\n")
        return {"epoch": epoch, **self._figures(test, kept)}

    def _prompts(self) -> list[str]:
        return [prompt for prompt in self.splits["test"].prompts for _ in range(self.painter.times)]

    def _figures(self, test: np.ndarray, kept: np.ndarray | None) -> dict[str, float]:
        kept_asked, base = self.splits.get("kept", PictureSplit()), self.base.get("kept")
        times, asked = self.painter.times, self.splits["test"]
        figures = scored(Painted(test, asked, self.train_pictures, kept, base, kept_asked, times))
        if self.similarity:
            figures |= self.similarity.scored(test, self._prompts(), self.train_pictures)
        return {name: round(value, 4) for name, value in figures.items()}

    def samples(self, folder: Path) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]] | None:
        """The prompts of the grid that was scored, in its order."""
        file = folder / PICTURES / "prompts.json"
        if not file.is_file():
            return None
        prompts = json.loads(read_text(file))["test"]
        return "test/prompts", ("number", "prompt"), list(enumerate(prompts, 1))
