"""What PEFT's files hold of each method: names of tensors, and the configuration, written and read."""

from __future__ import annotations

from typing import Any, TypedDict

from variants.errors import VariantError
from variants.formats.peft.adalora import _adalora_config, _read_adalora
from variants.formats.peft.common import NAMES
from variants.formats.peft.forms import FORMS
from variants.formats.peft.lora import _lora_config, _read_lora
from variants.formats.peft.vera import _read_vera, _vera_config

WRITE = {"lora": _lora_config, "dora": _lora_config, "vera": _vera_config, "adalora": _adalora_config}

LORA = ("pissa", "milora", "olora", "lora_fa", "lora_plus", "lora_ga", "eva", "corda", "lora_pro", "relora")
"""Methods that PEFT has as ways to start or train its LoRA: their files are LoRA's."""


# ---- reading -----------------------------------------------------------------------------------------------

NO_EFFECT = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out"),
    *("inference_mode", "init_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout"),
    *("megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern"),
    *("revision", "target_modules", "task_type", "use_dora", "use_rslora", "vera_dropout"),
    *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "d_initial", "projection_prng_key"),
    *("save_projection", "init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
    *("total_step", "ensure_weight_tying", "num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"),
    *("num_transformer_submodules", "encoder_hidden_size", "prefix_projection"),
    *(option for form in FORMS.values() for option in form.known()),
}
"""Options that are read here, or that the tensors' names and shapes already tell, or that shape training alone."""

_SIZES = dict.fromkeys(("r", "init_r", "target_r", "deltaT", "projection_prng_key"), int)
_SIZES |= dict.fromkeys(("decompose_factor", "oft_block_size", "num_cayley_neumann_terms", "boft_block_size"), int)
_SIZES |= dict.fromkeys(("boft_n_butterfly_factor", "n_frequency", "random_loc_seed", "num_vectors", "topk"), int)
_SIZES |= dict.fromkeys(("vector_length", "mini_r", "boft_block_num", "num_virtual_tokens"), int)
_SHARES = (
    *("alpha", "scaling", "vblora_dropout", "randlora_alpha", "randlora_dropout", "delora_lambda", "miss_dropout"),
    *("lora_alpha", "lora_dropout", "tinit", "tfinal", "beta1", "beta2", "orth_reg_weight", "d_initial"),
)
_ENTRIES: dict[str, Any] = {
    "peft_type": str,
    **{key: kind | None for key, kind in (_SIZES | dict.fromkeys(_SHARES, float)).items()},
    "total_step": int | None,
    "rank_pattern": dict[str, Any] | None,
    "alpha_pattern": dict[str, float] | None,
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out"), bool | None),
    "task_type": str | None,
    "modules_to_save": list[str] | None,
    "feedforward_modules": list[str] | None,
    "use_cayley_neumann": bool | None,
}
Config = TypedDict("Config", _ENTRIES, total=False)
"""Types of the options that are read here; PEFT leaves some as null."""
NEEDS = {
    "lora": ("r", "lora_alpha"),
    "dora": ("r", "lora_alpha"),
    "vera": ("r",),
    "adalora": ("init_r", "target_r", "deltaT", "lora_alpha", "total_step"),
    "loha": ("r", "alpha"),
    "lokr": ("r", "alpha"),
    "oft": ("oft_block_size",),
    "boft": ("boft_block_size", "boft_n_butterfly_factor"),
    "hra": ("r",),
    "fourierft": ("n_frequency", "scaling"),
    "vblora": ("r", "num_vectors", "vector_length", "topk"),
    "randlora": ("r", "randlora_alpha"),
    "delora": ("r", "delora_lambda"),
    "miss": ("r",),
    "ia3": (),
    "prefix_tuning": ("num_virtual_tokens",),
}
"""Options without which a file of a method says too little; all but alpha are above 0."""

READ = {"lora": _read_lora, "dora": _read_lora, "vera": _read_vera, "adalora": _read_adalora}


def kind(config: dict[str, Any]) -> str:
    """Our name of the variant that a PEFT configuration describes.

    Raises:
        VariantError: there is none.
    """
    name = str(config.get("peft_type")).lower()
    if name not in (known := [*NAMES, *FORMS]):
        raise VariantError(f"PEFT's {name.upper()[:40]} has no counterpart here; readable are {', '.join(known)}")
    return "dora" if config.get("use_dora") else name
