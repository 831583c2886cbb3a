"""The training settings of image models, and how pictures are painted."""

from __future__ import annotations

from dataclasses import dataclass

from modules.benchmarks.settings import TrainingSettings, setting


@dataclass(frozen=True, kw_only=True)
class PictureSettings(TrainingSettings):
    """Beside the common ones: the class's pictures, prompts that are left out, weights of losses, painting."""

    batch_size: int = setting("pictures per optimizer step, over all devices, those of the class apart", most=1e6)
    max_length: int = setting("tokens of a prompt that T5 reads (SD3, Flux); CLIP reads 77", 256, most=1e6)
    repeats: int = setting("how often an epoch has each picture", 1, most=1e6)
    prompt_dropout: float = setting("share of pictures that are trained without their prompt", 0.1, zero=True, most=1)
    prior_weight: float = setting(
        "weight of the loss on the class's pictures, which the frozen model paints (prior preservation); 0 for none",
        0.0,
        zero=True,
        most=1e6,
    )
    prior_pictures: int = setting("pictures of the class, with --prior_weight", 48, most=1e6)
    snr_gamma: float = setting("gamma of min-SNR weights, for models trained by DDPM; 0 for none", 0.0, zero=True)
    ema: float = setting(
        "decay of a moving average of what trains, such as 0.999, which is scored and saved; 0 for none",
        0.0,
        zero=True,
        most=0.999999,
    )
    resolution: int | None = setting("pixels of a picture's side (default: the model's)", None, most=1e5)
    paint_steps: int = setting("steps of the sampler", 20, most=1e4)
    guidance: float = setting("of classifier-free guidance; 1 is none", 3.0, most=1e3)
    shown: int = setting("pictures that are painted after each epoch, of fixed prompts and noise", 16, zero=True)
    paint_seeds: int = setting("pictures of each prompt that is scored", 1, most=1e4)
    scores: str | None = setting(
        "comma list of what pictures of your own data are scored by: clip_i, clip_t, dino (default: none)", None
    )
    clip_model: str = setting("Hub id or folder, for clip_i and clip_t", "openai/clip-vit-base-patch32")
    dino_model: str = setting("Hub id or folder, for dino", "facebook/dinov2-small")
    strengths: str | None = setting(
        "comma list of strengths of the update at which pictures are scored too, such as 0.5,1.5", None
    )
    score_epoch: str = setting(
        "the epoch that is scored: best on the held-out pictures, last, or none",
        "last",
        choices=("best", "last", "none"),
    )

    def steps_per_epoch(self, rows: int) -> int:
        """See `TrainingSettings`: each picture comes ``repeats`` times."""
        return super().steps_per_epoch(rows * self.repeats)
