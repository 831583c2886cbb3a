"""What vLLM takes of PEFT's folders.

As vLLM 0.33.0 has it: ``vllm/lora/peft_helper.py`` (``PEFTHelper.validate_legal``) for the configuration,
``vllm/lora/utils.py`` (``parse_fine_tuned_lora_name``) for the names of tensors, and ``vllm/config/lora.py``
(``MaxLoRARanks``) for the ranks that a server is started with. Before 0.33 it read no ``rank_pattern`` and no
``alpha_pattern``; folders written here need neither (`variants.formats.peft.lora.one_scaling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from variants.errors import VariantError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of ``--max-lora-rank``, whose default is 16."""
HEADS = ("classifier", "score")
"""The modules trained as a whole that it takes, one of them in a folder."""


def refuse(config: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise VariantError for the first rule of vLLM's that a folder breaks, with the mend.

    Args:
        config: of ``adapter_config.json``.
        keys: names of the tensors.
    """
    near = "--as lora --rank R makes a LoRA near it, and says how near"
    if config["peft_type"] != "LORA":
        raise VariantError(
            f"vLLM serves LoRA alone, and this is {config['peft_type']}: --as lora computes the same, and {near}"
        )
    if config.get("use_dora"):
        raise VariantError(f"vLLM does not serve DoRA: {near}")
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > RANKS[-1]:
        raise VariantError(f"vLLM serves ranks up to {RANKS[-1]}, and this has {rank}: --as lora --rank {RANKS[-1]}")
    whole = {key.split(".")[-2]: key for key in keys if not key.endswith((".lora_A.weight", ".lora_B.weight"))}
    if other := [key for name, key in whole.items() if name not in HEADS]:
        module = other[0].removeprefix("base_model.model.").rpartition(".")[0]
        raise VariantError(
            f"vLLM serves low-rank updates and a head that is one linear map ({' or '.join(HEADS)}), and this trains "
            f"{module} as a whole: merge it (python -m variants.merge) and serve the merged folder"
        )


def command(folder: str, base: str | None, config: Mapping[str, Any]) -> str:
    """The line that serves a folder beside its base."""
    largest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    rank = next(rank for rank in RANKS if rank >= largest)
    return f"vllm serve {base or 'MODEL'} --enable-lora --max-lora-rank {rank} --lora-modules my-adapter={folder}"
