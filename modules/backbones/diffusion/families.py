"""The image models that can be adapted, by the pipeline that their folder names."""

from __future__ import annotations

from pathlib import Path

import torch

from modules.backbones.diffusion import folder as layout
from modules.backbones.diffusion.image_model import ImageModel
from modules.backbones.diffusion.pipelines import Flux, StableDiffusion, StableDiffusion3
from modules.backbones.diffusion.words_model import WordsModel
from variants.base_model import quiet
from variants.errors import UserError, first_line

FAMILIES: dict[str, type[ImageModel]] = {
    "WordsPipeline": WordsModel,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
"""By the ``_class_name`` of model_index.json."""


def load_image_model(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> ImageModel:
    """The image model of a folder in diffusers' layout; from safetensors alone.

    Raises:
        UserError: it is of no family that is known here, or cannot be loaded.
    """
    kind = layout.parts(folder)["_class_name"]
    if kind not in FAMILIES:
        raise UserError(f"model {name!r} is a {kind}: image models that can be adapted are {', '.join(FAMILIES)}")
    logging = layout.library().utils.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet():
            return FAMILIES[kind](folder, dtype)
    except UserError:
        raise
    except Exception as error:  # diffusers and transformers raise a dozen kinds
        raise UserError(f"model {name!r} cannot be loaded: {first_line(error)}") from error
