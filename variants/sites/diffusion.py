"""The rows of diffusion models, by diffusers' class names: UNets, and transformers of patches.

A block's feed-forward gate and what it gates are halves of one map, which is ``up`` as a whole. In models of two
streams (MMDiT) the roles q, k, v and o are the image's; the text's maps have the role ``added``.
"""

from __future__ import annotations

from variants.sites.family import Architecture

_SELF = {x: rf"(?:attn\d?|attentions\.\d+)\.to_{x}" for x in "qkv"} | {"o": r"(?:attn\d?|attentions\.\d+)\.to_out\.0"}
_ADDED = {"added": r"attn\.(?:add_[qkv]_proj|to_add_out)"}
_FF = {"up": r"ff\.net\.0\.proj", "down": r"ff\.net\.2"}
_TWO_FF = {"up": r"ff(?:_context)?\.net\.0\.proj", "down": r"ff(?:_context)?\.net\.2"}
_RESNETS = r"resnets\.\d+\.(?:conv1|conv2|conv_shortcut)|(?:down|up)samplers\.\d+\.conv"

DIFFUSION = (
    Architecture(
        names=("UNet2DConditionModel", "UNet2DModel"),
        maps=_SELF | _FF | {"conv": _RESNETS},
        cross=r"attn2",
        takes_prefix=False,
        apart=("down_blocks", "mid_block", "up_blocks"),
    ),
    Architecture(names=("DiTTransformer2DModel",), maps=_SELF | _FF, takes_prefix=False),
    Architecture(names=("PixArtTransformer2DModel",), maps=_SELF | _FF, cross=r"attn2", takes_prefix=False),
    Architecture(names=("SD3Transformer2DModel",), maps=_SELF | _ADDED | _TWO_FF, takes_prefix=False),
    Architecture(
        names=("FluxTransformer2DModel",),
        maps=_SELF
        | _ADDED
        # a single-stream block's attention and feed-forward layer end in one map, which is "down" as a whole
        | {"up": rf"{_TWO_FF['up']}|proj_mlp", "down": rf"{_TWO_FF['down']}|single_transformer_blocks\.\d+\.proj_out"},
        takes_prefix=False,
    ),
)
