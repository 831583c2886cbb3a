"""Room for a prefix: the backbone computes p tokens more than it is given, and returns the hidden states of the others.

What stands in the room is each method's business: trained embeddings (prefix_embed), activations (prefix_layer), keys
and values (prefix_tuning). It works with any attention, and with a cache: the prefix enters with the first tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer
from variants.sites.architectures import architecture_of, model_type
from variants.sites.misses import families
from variants.sites.site import ModuleSite


class Room:
    """Where the prefix stands in a sequence: ``length`` tokens from ``start`` on."""

    def __init__(self, backbone: nn.Module, length: int) -> None:
        family = architecture_of(backbone)
        if not family.names or not family.takes_prefix:
            known = ", ".join(families(takes_prefix=True))
            where = model_type(backbone) or type(backbone).__name__
            raise VariantError(f"a prefix is known for {known}, not for {where}")
        window, longest = (getattr(backbone.config, key, None) for key in ("sliding_window", "max_position_embeddings"))
        if window and longest and longest + length > window:
            name = model_type(backbone)
            raise VariantError(
                f"a prefix falls out of the sliding window of {name}: behind {window} tokens none sees it; "
                f"if your texts are shorter, say so: config.max_position_embeddings = {window - length}"
            )
        self.backbone = backbone
        self.start, self.length = int(family.pools_first_token), length
        self.present = True  # not while a model decodes token by token behind its cache, which holds the prefix already
        self.most = 0
        if family.learns_positions:
            rows = getattr(backbone.config, "max_position_embeddings", 0)
            self.most = rows - family.first_position(backbone.config)

    def insert(self, h: Tensor, prefix: Tensor) -> Tensor:
        """(batch, tokens, ...) -> (batch, tokens + p, ...), with ``prefix`` (1, p, ...) in every row, or (S, p, ...) of
        S adapters in equal parts of the rows."""
        each = prefix.unsqueeze(1).expand(-1, len(h) // len(prefix), *prefix.shape[1:]).flatten(0, 1)
        return torch.cat([h[:, : self.start], each, h[:, self.start :]], 1)

    def fill(self, h: Tensor, prefix: Tensor) -> Tensor:
        """``h`` (batch, tokens + p, d) with ``prefix`` (p, d) in the room."""
        if not self.present:
            return h
        prefix = prefix.to(h.dtype).expand(len(h), -1, -1)
        return torch.cat([h[:, : self.start], prefix, h[:, self.start + self.length :]], 1)

    def remove(self, h: Tensor) -> Tensor:
        """(batch, tokens + p, ...) -> (batch, tokens, ...)."""
        return torch.cat([h[:, : self.start], h[:, self.start + self.length :]], 1) if self.present else h


class RoomLayer(AdapterLayer):
    """On the backbone: lengthens what goes in and shortens what comes out. The new tokens are zeros."""

    def __init__(self, site: ModuleSite, config: Any, rng: torch.Generator, room: Room) -> None:
        super().__init__(site, config)
        self.room = room
        self.names = tuple(inspect.signature(site.module.forward).parameters)

    def embeddings(self, like: Tensor) -> Tensor:
        """What is inserted, (p, d); ``like`` is what it stands beside, (batch, tokens, d)."""
        return like.new_zeros(self.room.length, like.shape[-1])

    def lengthen(
        self, args: tuple, kwargs: dict[str, Any], embeddings: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[tuple, dict[str, Any]]:
        """The backbone's arguments, with room for the prefix in each that has an entry for every token.

        Args:
            args: of the call, by place.
            kwargs: of the call, by name.
            embeddings: gives what :meth:`embeddings` of S stacked adapters is, (S, p, d), in place of the layer's own.

        Raises:
            VariantError: the mask is not (batch, tokens), or the model has too few positions.
        """
        given = dict(zip(self.names, args, strict=False)) | kwargs
        cache = given.get("cache", given.get("past_key_values"))
        present = cache is None or cache.get_seq_length() == 0
        if self.room.present != present:
            self.room.present = present
        if (mask := given.get("attention_mask")) is not None:
            if mask.ndim != 2:
                raise VariantError("a prefix needs an attention mask of shape (batch, tokens)")
            given["attention_mask"] = self.room.insert(mask, mask.new_ones(1, self.room.length))
        if (positions := given.get("position_ids")) is not None:
            given["position_ids"] = self._positions(positions)
        if not present:
            return (), given
        if (types := given.get("token_type_ids")) is not None:
            given["token_type_ids"] = self.room.insert(types, types[:1, :1].expand(1, self.room.length))
        tokens, name = given.get(self.names[0]), self.names[0]
        if tokens is None or not tokens.is_floating_point():  # ids, which a prefix has none of
            given.pop(name, None)
            name = "inputs_embeds"
            tokens = given.get(name) if tokens is None else self.site.module.get_input_embeddings()(tokens)
        if self.room.most and tokens.shape[1] + self.room.length > self.room.most:
            raise VariantError(
                f"{tokens.shape[1]} tokens and a prefix of {self.room.length} are more than the {self.room.most} "
                "positions of the model: choose a smaller p or a smaller max_length"
            )
        inserted = self.embeddings(tokens)[None] if embeddings is None else embeddings(tokens)
        given[name] = self.room.insert(tokens, inserted.to(tokens.dtype))
        return (), given

    def _positions(self, positions: Tensor) -> Tensor:
        if not self.room.present:
            return positions + self.room.length
        new = positions[:, :1] + self.room.start + torch.arange(self.room.length, device=positions.device)
        start = self.room.start
        return torch.cat([positions[:, :start], new, positions[:, start:] + self.room.length], 1)

    def shorten(self, output: Any) -> Any:
        """The backbone's output without the prefix."""
        if isinstance(output, Tensor):
            return self.room.remove(output)
        if isinstance(output, tuple):
            return self.room.remove(output[0]), *output[1:]
        output.last_hidden_state = self.room.remove(output.last_hidden_state)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(self.room.remove(h) for h in output.hidden_states)
        return output
