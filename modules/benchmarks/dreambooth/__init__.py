"""Adapting an image model to a style or a subject from a few pictures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.benchmarks.base import Benchmark, Column, Prepared, batch_sizes
from modules.benchmarks.dreambooth.description import FLAGS, Description
from modules.benchmarks.dreambooth.settings import PictureSettings
from modules.benchmarks.dreambooth.tasks import CHARACTER, EMOJI, LOSS, STYLE, TASKS, PictureTask
from modules.data.task import Task
from variants.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from modules.data.source import Source
    from modules.runs.config import RunConfig
    from modules.runs.results import RunResult

SCORES = {
    "taught": ("new", 100.0, 1), "followed": ("followed", 100.0, 1), "kept": ("kept", 100.0, 1),
    "nearer": ("new drawing", 100.0, 1), "clip_i": ("CLIP-I", 1.0, 3), "clip_t": ("CLIP-T", 1.0, 3),
    "dino": ("DINO", 1.0, 3), "neg_drift": ("drift", -1.0, 3), "nearest": ("nearest", 1.0, 3),
}  # fmt: skip
"""Score -> (heading, scale, digits)."""


class DreamBooth(Benchmark):
    """See `modules/benchmarks/base.py`."""

    name = "dreambooth"
    title = "Image models"
    script = "dreambooth.py"
    description = (
        "Adapt an image model (Stable Diffusion, SD3, Flux, or the small one that ships) to a style or a subject from "
        "a few pictures with a LoRA variant, paint fixed prompts after every epoch, and score what is painted."
    )
    examples = """examples:
  python paper_repro/dreambooth.py --variant lora --r 8                       a style and a character, on this machine
  python paper_repro/dreambooth.py --tasks style --variant dora --seeds 0,1,2
  python paper_repro/dreambooth.py --data PICTURES --model FOLDER --instance_prompt 'a photo of sks dog' \\
      --class_prompt 'a photo of a dog' --prior_weight 1
  python paper_repro/dreambooth.py --tasks emoji --model twemoji-dit --data_dir EMOJI
  python paper_repro/dreambooth.py --combine style.yaml                       style, character, and both
"""
    tasks: Mapping[str, PictureTask] = TASKS
    settings = PictureSettings
    statistic = "mean"
    data_flags = FLAGS

    presets = ("auto", "embedded", "default")
    auto_class = "diffusers"
    hub_model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    model_title = "Stable Diffusion 1.5"
    family = "image models"
    embedded_model = "embedded-dit"
    embedded_note = "a small diffusion transformer and generated sprites of 32 x 32 that ship with the project"
    data_env = "EMOJI_DIR"
    data_help = "folder of emoji (index.json, twemoji_32.png, noto_32.png)"

    reading = """\
A cell is the mean over the seeds ± their standard deviation (n-1), of pictures that the adapted model paints from fixed
noise after training, with the weights of the epoch that the row's note names (`score_epoch`). Of sprites *new* is the
share of pictures that show the new style or character, *followed* the share that shows the rest of the prompt, *kept*
the share right on prompts without the new word; all three are read from pixels by the program that draws sprites, times
100. Of emoji *new drawing* is the share nearer to the new artist's drawing than to the known one's, *followed* the
share nearest to the drawing that was asked for. *Drift* is the distance of pictures for prompts without the new word
from what the frozen model paints from the same noise, *nearest* the distance from the nearest training picture (0: a
copy). *Held-out loss* is that of pictures that are not trained on, at fixed noise. Toy pictures of 32 x 32 and emoji
say how methods differ there, and nothing of large models."""
    scored_on = "test"

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Of all tasks: their scores, and the held-out loss."""
        return tuple(column for task in self.tasks.values() for column in columns_of(task, len(self.tasks) == 1))

    def seen_in(self, results: Sequence[RunResult]) -> DreamBooth:
        """See `Benchmark.seen_in`: with the tasks that have results, and the scores that they have."""
        own, names = DreamBooth(), sorted({run.task for run in results})
        own.given, own.tasks = self.given, {}
        for name in names:
            known = self.tasks.get(name) or PictureTask(name=name, title=name)
            figures = {score for run in results if run.task == name for score in run.test or {}}
            own.tasks[name] = replace(known, scores=tuple(score for score in SCORES if score in figures))
        return own

    @property
    def metric_words(self) -> Mapping[str, str]:
        """What each score is."""
        from modules.benchmarks.dreambooth.scores import WORDS

        return WORDS | {LOSS: "loss on held-out pictures with its sign turned"}

    def usual_tasks(self, backbone: str) -> Sequence[str]:
        """See `Benchmark.usual_tasks`: sprites are for the small model."""
        if self.given:
            return ()
        return (STYLE.name, CHARACTER.name) if backbone == "embedded" else (EMOJI.name,)

    # ---- own data --------------------------------------------------------------------------------------------

    def on(self, given: Mapping[str, str]) -> DreamBooth:
        """See `Benchmark.on`; no picture is read yet."""
        if not given:
            return self
        wanted, own = Description.of(given), DreamBooth()
        own.given = dict(given)
        own.tasks = {wanted.task: PictureTask(name=wanted.task, title=wanted.title)}
        return own

    def labelled(self, task: Task, source: Source, training: Mapping[str, Any]) -> Task:
        """See `Benchmark.labelled`: whether scores are known, and the class has a prompt where it is needed."""
        from modules.benchmarks.dreambooth.similarity import check

        check(_words(training.get("scores")))
        strengths_of(training.get("strengths"))
        if training.get("quantise"):
            raise UserError("--quantise: image models cannot be quantised here, leave it out")
        source.hash(task)
        if training.get("prior_weight") and "class" not in source.sizes[task.name]:
            raise UserError("--prior_weight needs pictures of the class: name their prompt by --class_prompt")
        return task

    # ---- sources ---------------------------------------------------------------------------------------------

    @property
    def hub_files(self) -> tuple[str, ...]:
        """What of a model is fetched from the Hub."""
        from modules.backbones.diffusion.folder import HUB_FILES

        return HUB_FILES

    def backbone(self, model: str) -> tuple[str, str, Path]:
        """See `Benchmark.backbone`; raises UserError where the folder holds no image model."""
        from modules.backbones.diffusion.folder import weight_files

        found = super().backbone(model)
        weight_files(found[2])
        return found

    def embedded(self) -> tuple[str, Path]:
        """Name and folder of the small diffusion transformer."""
        from modules.embedded import SPRITES

        return self.embedded_model, SPRITES

    def source(self, backbone: str, data_dir: str | None) -> Source:
        """See `Benchmark.source`; a person's own pictures serve any backbone."""
        return self.open_source("own", self.given) if self.given else super().source(backbone, data_dir)

    def open_source(self, kind: str, spec: Any) -> Source:
        """The generator ("embedded"), a folder of emoji (`spec`), or what flags describe (a mapping)."""
        from modules.benchmarks.dreambooth.sources import EmbeddedSource, EmojiSource, HubSource, OwnSource

        if isinstance(spec, Mapping):
            return OwnSource(spec)
        return {"embedded": EmbeddedSource, "hub": HubSource}[kind]() if kind != "folder" else EmojiSource(spec)

    # ---- a run -----------------------------------------------------------------------------------------------

    def prepare(self, config: RunConfig) -> Prepared:
        """Read the pictures, load the model, paint the class: see `Benchmark.prepare`."""
        import numpy as np
        import torch

        from modules.backbones.diffusion.families import load_image_model
        from modules.benchmarks.dreambooth.data import PictureDataModule, Pictures, Table
        from modules.benchmarks.dreambooth.objective import Denoising
        from modules.benchmarks.dreambooth.painting import Painter
        from modules.benchmarks.dreambooth.similarity import Similarity

        settings = self.settings.of(config.training)
        source = self.open_source(config.data["source"], config.data["spec"])
        task = self.tasks.get(config.task) or self.on(config.data["spec"]).tasks[config.task]
        splits = source.expect(task, config.data["hash"])
        name, _, folder = self.backbone(config.backbone["spec"])
        model = load_image_model(folder, name)
        model.max_tokens = settings.max_length
        if settings.resolution:
            model.resize(settings.resolution)
        pictures = {split: _fitted(splits[split].pictures, model.size) for split in ("train", "validation")}
        prompts = {split: splits[split].prompts for split in pictures}
        painter = Painter(model, config.backbone["hash"], settings.paint_steps, settings.guidance, settings.paint_seeds)
        if settings.prior_weight:
            prompts["prior"] = list(itertools.islice(itertools.cycle(splits["class"].prompts), settings.prior_pictures))
            once = Painter(model, config.backbone["hash"], settings.paint_steps, settings.guidance)
            pictures["prior"] = once.frozen(prompts["prior"])
        table = Table(model, [prompt for some in prompts.values() for prompt in some])
        latents = {
            split: Pictures(
                model.encode(torch.from_numpy(some).permute(0, 3, 1, 2).float() / 127.5 - 1),
                table.numbers(prompts[split]),
            )
            for split, some in pictures.items()
        }
        data = PictureDataModule(
            latents,
            table,
            task.eval_splits,
            **batch_sizes(settings.batch_size, config.trainer),
            seed=config.seed,
            repeats=settings.repeats,
            prompt_dropout=settings.prompt_dropout,
            prior_weight=settings.prior_weight,
        )
        scores = _words(settings.scores)
        objective = Denoising(
            model,
            model.noising(settings.snr_gamma),
            painter,
            {split: splits[split] for split in ("train", "test", "kept") if split in splits},
            np.asarray(pictures["train"]),
            splits["test"].prompts[: settings.shown],
            config.folder,
            settings.score_epoch,
            Similarity(scores, settings.clip_model, settings.dino_model) if scores else None,
            strengths_of(settings.strengths),
        )
        print(f"loss: {objective.noising.words}; latents {tuple(latents['train'].latents.shape[1:])}", flush=True)
        return Prepared(data, model.denoiser, objective, source.sizes[task.name], source.notes[task.name])

    def inputs(self, config: RunConfig) -> dict[str, Any]:
        """See `Benchmark.inputs`: how pictures are painted."""
        settings = self.settings.of(config.training)
        known = {name: getattr(settings, name) for name in ("resolution", "paint_steps", "guidance")}
        return {"fields": ["prompt"], "max_length": settings.max_length} | known

    def scored_rows(self, sizes: Mapping[str, int]) -> int:
        """Prompts that are painted and scored."""
        return sizes["test"]


def columns_of(task: PictureTask, alone: bool) -> list[Column]:
    """A column for each score of a task, and its held-out loss; `alone`: it is the table's only one."""
    before = "" if alone else f"{task.title}: "
    found = []
    for score in task.scores:
        title, scale, digits = SCORES[score]
        found.append(Column(f"{task.name}_{score}", task.name, f"{before}{title}", score, scale, digits))
    return [*found, Column(f"{task.name}_loss", task.name, f"{before}held-out loss", scale=-1.0, digits=4)]


def _fitted(pictures: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Pictures (N, size, size, 3) uint8."""
    import numpy as np

    from modules.benchmarks.dreambooth.files import fitted

    return np.stack([fitted(picture, size) for picture in pictures])


def strengths_of(text: str | None) -> list[float]:
    """The strengths of a comma list. Raises UserError where one is no number."""
    try:
        found = [float(word) for word in _words(text)]
    except ValueError:
        found = [-1.0]
    if any(not 0 <= each <= 100 for each in found):
        raise UserError(f"--strengths must be numbers from 0 to 100, such as 0.5,1.5, not {text!r}")
    return found


def _words(scores: str | None) -> list[str]:
    return [word.strip() for word in (scores or "").split(",") if word.strip()]


DREAMBOOTH = DreamBooth()
