"""Bottlenecks and prefixes: their matrices are used in products alone, or put beside others as they are."""

from __future__ import annotations

from variants.acceleration.basics.fast_paths import PRODUCTS_ALONE
from variants.methods.adapter_d import DroppedLayer
from variants.methods.adapter_h import BottleneckLayer
from variants.methods.adapter_l import NormedBottleneckLayer
from variants.methods.adapter_p import PfeifferLayer
from variants.methods.prefix_embed import PrefixEmbedLayer
from variants.methods.prefix_layer import ActivationsLayer
from variants.methods.prefix_tuning import KeysOrValuesLayer

PRODUCTS_ALONE |= {BottleneckLayer, NormedBottleneckLayer, PfeifferLayer, DroppedLayer}
PRODUCTS_ALONE |= {ActivationsLayer, KeysOrValuesLayer, PrefixEmbedLayer}
