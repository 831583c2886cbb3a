"""A model of diffusers', loaded alone or as a part of a pipeline: a folder, or a name on the Hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from variants.errors import UserError, VariantError
from variants.formats.diffusers.parts import COMPONENTS, components_named

INDEX, CONFIG = "model_index.json", "config.json"


def is_pipeline(source: str) -> bool:
    """Whether a folder holds a pipeline's models, each in a folder of its own."""
    return (Path(source) / INDEX).is_file()


def load_component(source: str, component: str | None, name: str = "") -> nn.Module:
    """The model ``component`` of a pipeline, or the model that is alone in a folder.

    Args:
        source: folder or Hub id, of a pipeline or of one model.
        component: such as unet or text_encoder; None: the one that has the class ``name``, or the denoiser.
        name: class of the model, where it is known.

    Raises:
        VariantError: there is no such model.
        UserError: diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UserError("models of pipelines need diffusers: pip install 'lora-variants[diffusion]'") from error
    if (Path(source) / CONFIG).is_file():
        config = json.loads((Path(source) / CONFIG).read_text())
        own = config.get("_class_name") or next(iter(config.get("architectures") or []), "")
        return _class_of("diffusers" if "_class_name" in config else "transformers", own).from_pretrained(source)
    index = diffusers.DiffusionPipeline.load_config(source)
    models = {key: value for key, value in index.items() if key in COMPONENTS and value[0]}
    of_class = [key for key, (_, cls) in models.items() if cls == name]
    likely = [key for key in (*components_named(name), *COMPONENTS) if key in models]
    chosen = component or next(iter((*of_class, *likely)), "")
    if chosen not in models:
        raise VariantError(f"{source} has no {chosen or 'model'}: it has {', '.join(models) or 'none'}")
    return _class_of(*models[chosen]).from_pretrained(source, subfolder=chosen)


def _class_of(library: str, name: str) -> type:
    """A model class of diffusers or transformers; code of anybody else's is not loaded."""
    if library not in ("diffusers", "transformers"):
        raise VariantError(f"{name} is of {library}, and no model of diffusers or transformers")
    found = getattr(importlib.import_module(library), name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise VariantError(f"{library} has no model {name!r}")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and its advice on weights that the adapter brings."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
