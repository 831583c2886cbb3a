"""Model types whose linear maps have the names of a family in `architectures`; nothing else of that row holds of them.

Each was compared with transformers' own code (``tests/variants/sites/test_aliases.py``).
"""

from __future__ import annotations

_LIKE = {
    "bert": "ernie megatron-bert roformer rembert data2vec-text xlm-roberta-xl roberta-prelayernorm bert-generation "
    "big_bird layoutlm layoutlmv3 splinter tapas nystromformer yoso mra",
    "gpt2": "openai-gpt imagegpt",
    "opt": "biogpt xglm",
    "llama": "cohere cohere2 cwm diffllama ernie4_5 exaone exaone4 granite helium hyperclovax internlm3 olmo olmo2 "
    "olmo3 seed_oss smollm3 stablelm vaultgemma ministral ministral3 apertus arcee jais2 nemotron hunyuan_v1_dense "
    "mixtral qwen2_moe qwen3_moe olmoe flex_olmo phimoe granitemoe gpt_oss minimax_m2 ernie4_5_moe glm4_moe",
    "gpt_neox": "gpt_neox_japanese",
    "t5": "umt5",
    "bart": "mbart marian pegasus blenderbot blenderbot-small plbart mvp m2m_100 speech_to_text",
    "clip": "siglip siglip2 siglip_vision_model siglip2_vision_model metaclip_2 clipseg",
    "vit": "deit dinov2 dinov2_with_registers vit_msn vit_mae ijepa audio-spectrogram-transformer yolos vivit videomae "
    "dpt beit data2vec-vision",
}

ALIASES: dict[str, str] = {name: family for family, names in _LIKE.items() for name in names.split()}
"""transformers' ``config.model_type`` -> the family's first name."""
