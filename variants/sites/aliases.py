"""Model types whose linear maps have the names of a family in `architectures`. Of that row nothing else holds of them,
but that rows of language models can be packed.

Each was compared with transformers' own code (``tests/variants/sites/test_aliases.py``).
"""

from __future__ import annotations

_LIKE = {
    "bert": "ernie megatron-bert roformer rembert data2vec-text xlm-roberta-xl roberta-prelayernorm bert-generation "
    "big_bird layoutlm layoutlmv3 splinter tapas nystromformer yoso mra roc_bert",
    "gpt2": "openai-gpt imagegpt",
    "opt": "biogpt xglm",
    "llama": "cohere2 cwm diffllama ernie4_5 exaone exaone4 helium hyperclovax internlm3 olmo "
    "olmo3 seed_oss vaultgemma ministral ministral3 apertus arcee jais2 nemotron hunyuan_v1_dense "
    "bitnet flint iquestcoder granite_swa apertus1p5_text gemma4_unified_text doge dory beam laguna afmoe gemma3n_text "
    "gemma4_text aria_text dots1 exaone_moe hy_v3 kolibri1 sarvam_moe solar_open cohere2_moe mellum "
    "granitemoeshared granitemoe_swa llama4_text hunyuan_v1_moe "
    "mixtral qwen2_moe qwen3_moe olmoe flex_olmo phimoe granitemoe gpt_oss minimax_m2 ernie4_5_moe glm4_moe",
    "gpt_neox": "gpt_neox_japanese",
    "phi": "nanochat",
    "glm": "glm4",
    "deepseek_v3": "deepseek_v2 minicpm3 youtu glm4_moe_lite axk1 sarvam_mla deepseek_v32 glm_moe_dsa",
    "t5": "umt5",
    "bart": "mbart marian pegasus blenderbot blenderbot-small plbart mvp m2m_100 speech_to_text",
    "clip": "siglip siglip2 siglip_vision_model siglip2_vision_model metaclip_2 clipseg",
    "vit": "deit dinov2 dinov2_with_registers vit_msn vit_mae ijepa audio-spectrogram-transformer yolos vivit videomae "
    "dpt beit data2vec-vision",
}

ALIASES: dict[str, str] = {name: family for family, names in _LIKE.items() for name in names.split()}
"""transformers' ``config.model_type`` -> the family's first name."""
LOOK_ELSEWHERE = frozenset(("deepseek_v32", "doge", "glm_moe_dsa", "llama4_text", "nemotron"))
"""Of the language models those in which more than PyTorch's attention looks at other tokens, or attention does not get
the model's keyword arguments: their rows are not packed."""
