"""Pretraining of a small diffusion transformer or UNet, on sprites or emoji, with prompts as bags of words.

The transformer learns by flow matching, the UNet by DDPM with v as its target (Salimans & Ho 2022): the scheduler that
is written beside the weights says which, to this training as to every later one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import one_hot

from modules.backbones.diffusion.folder import denoiser_of
from modules.backbones.diffusion.noising import Noising, noising_of
from modules.backbones.diffusion.words import SPARE, Words
from modules.backbones.diffusion.words_model import predicted
from modules.documents import read_json
from modules.embedded import sprites
from modules.pretraining.model_folder import machine, pick_device, write_image_folder, write_record
from modules.pretraining.read_back import read_back
from modules.pretraining.settings import ImageSettings
from modules.pretraining.training_step import Batch, TrainingStep
from modules.runs.checkpoints import read_checkpoint, write_checkpoint
from variants.errors import UserError, first_line

EMPTY, LEFT_OUT, UNKNOWN = 0.1, 0.1, 0.1
"""Shares of pictures without a prompt, of words left out, and of prompts with a spare word in place of the first."""
EVERY = 60
"""Seconds between checkpoints."""
STEPS_OF_TIME = 1000


class Pictures(NamedTuple):
    """All pictures (N, 3, H, H) uint8, and their prompts as numbers of words (N, L), -1 where there is none."""

    pixels: Tensor
    numbers: Tensor
    words: Words


def pretrain(settings: ImageSettings) -> int:
    """Train a model, write its folder in diffusers' layout, paint prompts with it, and print a line about it. Returns
    the exit code.

    Raises:
        UserError: the pictures are not to be had, or the settings make no model.
    """
    start, device = time.time(), pick_device(settings.device)
    if settings.model == "dit" and sprites.SIZE % settings.patch:
        raise UserError(f"--patch {settings.patch}: must divide the {sprites.SIZE} pixels of a side")
    pictures = _pictures(settings.pictures)
    print(f"{len(pictures.pixels):,} pictures, {time.time() - start:.0f} s", flush=True)
    torch.manual_seed(settings.seed)
    model = build(settings, len(pictures.words))
    before = _start(settings.start, model) if settings.start else {}
    loss, steps, seconds = train(settings, model, pictures, device)
    parameters = sum(p.numel() for p in model.parameters())
    kept = ("model", "pictures", "batch_size", "lr", "layers", "hidden", "heads", "patch", "average", "seed")
    record = {
        "steps": steps, **{name: getattr(settings, name) for name in kept},
        "distinct_pictures": len(pictures.pixels), "loss": round(loss, 4), "parameters": parameters,
        "words": len(pictures.words.known), "training_seconds": round(seconds, 1),
        **machine(device), "diffusers": diffusers.__version__, **({"started_from": before} if before else {}),
    }  # fmt: skip
    write_image_folder(settings.out, model.cpu(), scheduler_for(settings), pictures.words, record)
    (settings.out / "checkpoint.pt").unlink(missing_ok=True)
    print(f"{parameters:,} parameters, loss {loss:.3f}, written to {settings.out}", flush=True)
    record["painted"] = read_back(settings.out, settings.pictures, settings.painted, device)
    write_record(settings.out, record)
    print("painted prompts, share that is right: " + ", ".join(f"{k} {v:g}" for k, v in record["painted"].items()))
    return 0


def _start(folder: str, model: nn.Module) -> dict[str, Any]:
    """Give a model the weights of a folder; what that says of how they were made.

    Raises:
        UserError: there are none, or they are of a model of another size.
    """
    place = Path(folder).expanduser()
    try:
        found = type(model).from_pretrained(place / denoiser_of(place)[0])
        model.load_state_dict(found.state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--start {folder}: no such model of this size there ({first_line(error)})") from None
    return read_json(place / "pretraining.json")


def scheduler_for(settings: ImageSettings) -> Any:
    """The scheduler of a kind of model, which says how noise is added, and takes the steps of painting."""
    if settings.model == "dit":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS_OF_TIME)
    return DDIMScheduler(
        num_train_timesteps=STEPS_OF_TIME, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
        timestep_spacing="trailing",
    )  # fmt: skip


def build(settings: ImageSettings, words: int) -> nn.Module:
    """A model on pixels in place of latents; ``words`` is the size of the vocabulary.

    Of PixArt's form; or of Stable Diffusion's with three levels, whose lower two attend to the prompt.
    """
    if settings.model == "unet":
        wide = settings.hidden
        return UNet2DConditionModel(
            sample_size=sprites.SIZE, in_channels=3, out_channels=3, layers_per_block=settings.layers,
            block_out_channels=(wide * 2 // 3, wide, wide), norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=wide, encoder_hid_dim=words, encoder_hid_dim_type="text_proj",
            attention_head_dim=settings.heads,  # diffusers' name of the number of heads
        )  # fmt: skip
    return PixArtTransformer2DModel(
        num_attention_heads=settings.heads, attention_head_dim=settings.hidden // settings.heads,
        in_channels=3, out_channels=3, num_layers=settings.layers, cross_attention_dim=settings.hidden,
        sample_size=sprites.SIZE, patch_size=settings.patch, caption_channels=words,
        num_embeds_ada_norm=STEPS_OF_TIME, use_additional_conditions=False,
    )  # fmt: skip


def _pictures(name: str) -> Pictures:
    """The pictures of a name that ``--pictures`` takes, with their words."""
    if name == "sprites":
        scenes = sprites.scenes()
        every = [(scene.prompt(), sprites.draw(scene, jitter)) for scene in scenes for jitter in sprites.JITTERS]
    else:
        from modules.data.emoji import HANDS, folder_in_environment, read_emoji

        if name not in HANDS:
            raise UserError(f"--pictures {name}: must be sprites, {' or '.join(HANDS)}")
        emoji = read_emoji(folder_in_environment(), name)
        every = [(f"{name}, {each.words}", each.picture) for each in emoji]
    words = Words(word for prompt, _ in every for word in Words.split(prompt))
    numbers = torch.full((len(every), words.longest), -1)
    known: dict[str, list[int]] = {}
    for row, (prompt, _) in enumerate(every):
        found = known.setdefault(prompt, words.numbers(prompt))
        numbers[row, : len(found)] = torch.tensor(found)
    pixels = torch.from_numpy(np.stack([picture for _, picture in every])).permute(0, 3, 1, 2).contiguous()
    return Pictures(pixels, numbers, words)


# ---- training -----------------------------------------------------------------------------------------------------


def train(
    settings: ImageSettings, model: nn.Module, pictures: Pictures, device: torch.device
) -> tuple[float, int, float]:
    """Train for the settings' steps or minutes; the model ends with the moving average of its weights, on ``device``.

    A killed training goes on from the checkpoint in ``settings.out``.

    Returns:
        (mean loss since the last tenth, steps, seconds).

    Raises:
        UserError: the checkpoint is of a training with other settings.
    """
    model.to(device).train()
    torch.backends.cudnn.benchmark = True  # of a convolution's algorithms the fastest: there is one shape
    noising = noising_of(scheduler_for(settings))
    step_of = TrainingStep(
        lambda batch: (loss_of(model, noising, batch),),
        model,
        settings.lr,
        weight_decay=0.01,
        reference=settings.reference,
    )
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    checkpoint = settings.out / "checkpoint.pt"
    flags = {
        name: value for name, value in vars(settings).items() if name not in ("out", "reference", "device", "painted")
    }
    parts = {"model", "mean", "optimizer", "step", "seconds", "settings"}
    saved = read_checkpoint(checkpoint, "pretraining", lambda found: None if parts <= found.keys() else "is none of it")
    step, before = 0, 0.0
    if saved:
        if saved["settings"] != flags:
            raise UserError(f"{checkpoint} is of a training with other flags; continue with those, or delete it")
        model.load_state_dict(saved["model"])
        step_of.optimizer.load_state_dict(saved["optimizer"])
        mean = {name: value.to(device) for name, value in saved["mean"].items()}
        step, before = saved["step"], saved["seconds"]
    data = Pictures(pictures.pixels.to(device), pictures.numbers.to(device), pictures.words)
    generator = torch.Generator(device).manual_seed(settings.seed + step)
    parameters, averages = list(model.parameters()), list(mean.values())
    start = written = time.time()
    recent: list[Tensor] = []
    while True:
        spent = before + time.time() - start
        share = spent / 60 / settings.minutes if settings.minutes else step / settings.steps
        if share >= 1:
            break
        for group in step_of.optimizer.param_groups:
            group["lr"] = settings.lr * min(share / 0.02 + 1e-2, (1 - share) / 0.95, 1.0)
        (loss,) = step_of(draw(data, settings.batch_size, generator))
        step += 1
        decay = min(settings.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - decay)
        recent = [*recent[-199:], loss.clone()]
        if step % 100 == 0:
            print(f"step {step:,}  loss {torch.stack(recent).mean():.4f}  {share:.0%}  {spent:.0f} s", flush=True)
        if time.time() - written > EVERY:
            settings.out.mkdir(parents=True, exist_ok=True)
            state = {"model": model.state_dict(), "mean": mean, "optimizer": step_of.optimizer.state_dict()}
            write_checkpoint(checkpoint, {**state, "step": step, "seconds": spent, "settings": flags})
            written = time.time()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(mean[name])
    return torch.stack(recent).mean().item(), step, before + time.time() - start


def draw(data: Pictures, size: int, generator: torch.Generator) -> Batch:
    """A training batch: pictures (B, 3, H, H) in [-1, 1], noise, its levels (B,) in (0, 1), word vectors (B, L, V),
    mask (B, L)."""
    device = data.pixels.device
    rows = torch.randint(len(data.pixels), (size,), generator=generator, device=device)
    numbers, entries = data.numbers[rows], len(data.words)
    pictures = data.pixels[rows].float() / 127.5 - 1
    chance = torch.rand(size, numbers.shape[1] + 2, generator=generator, device=device)
    spare = torch.randint(entries - SPARE, entries, (size,), generator=generator, device=device)
    numbers[:, 1] = torch.where(chance[:, 0] < UNKNOWN, spare, numbers[:, 1])  # the first is in every prompt
    there = (numbers >= 0) & (chance[:, 2:] >= LEFT_OUT) & (chance[:, 1:2] >= EMPTY)
    there[:, 0] = True
    noise = torch.randn(pictures.shape, generator=generator, device=device)
    levels = torch.rand(size, generator=generator, device=device).clamp(1e-4, 1 - 1e-4)
    vectors = one_hot(numbers.clamp(min=0), entries).float()
    return {"pictures": pictures, "noise": noise, "levels": levels, "vectors": vectors, "mask": there.long()}


def loss_of(model: nn.Module, noising: Noising, batch: Batch) -> Tensor:
    """The mean squared error of what the model is to say of the noise; bf16 on a GPU."""
    noised = noising(batch["pictures"], batch["noise"], batch["levels"])
    told = {"encoder_hidden_states": batch["vectors"], "encoder_attention_mask": batch["mask"]}
    with torch.autocast(noised.latents.device.type, torch.bfloat16, enabled=noised.latents.is_cuda):
        found = predicted(model, noised.latents, noised.times, told)
    return (found.float() - noised.target).square().mean()
