"""Turns with a language model: what was said so far goes in, tokens come out as they are made."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from modules.benchmarks.instruct.rows.chat import prompt_ids, stop_ids
from modules.benchmarks.instruct.rows.example import Example, Message
from modules.inference.speaker import Speaker
from variants.errors import UserError


class Conversation:
    """A person's and a model's turns.

    Args:
        speaker: the model.
        system: what stands before the first turn, or None.
        max_new_tokens: longest answer, in tokens.
        temperature, top_p: of sampling; temperature 0 takes the likeliest token each time. None: as the model's own
            generation_config.json has it, or the likeliest where that says nothing.
        seed: of what is drawn; None: another each time.

    Attributes:
        turns: (role, text) of what was said so far; the model hears as many of them as it has positions for.
    """

    def __init__(
        self,
        speaker: Speaker,
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.model, self.tokenizer = speaker.model, speaker.tokenizer
        self.system: tuple[Message, ...] = (("system", system),) if system else ()
        self.turns: list[Message] = []
        self.config = self._generation(temperature, top_p)
        self.max_new_tokens = max_new_tokens
        if seed is not None:
            torch.manual_seed(seed)

    def _generation(self, temperature: float | None, top_p: float | None) -> GenerationConfig:
        config = copy.deepcopy(getattr(self.model, "generation_config", None)) or GenerationConfig()
        ends: Any = config.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        config.eos_token_id = list(dict.fromkeys([*ends, *stop_ids(self.tokenizer)]))
        pad = self.tokenizer.pad_token_id
        config.pad_token_id = config.eos_token_id[0] if pad is None else pad
        config.max_length = None
        if temperature is not None:
            config.do_sample, config.temperature = temperature > 0, temperature
        if top_p is not None:
            config.top_p = top_p
            config.do_sample = config.do_sample or temperature is None
        if not config.do_sample:
            config.temperature = config.top_p = config.top_k = None
        return config

    def reset(self) -> None:
        """Forget what was said."""
        self.turns.clear()

    def say(self, text: str, streamer: TextStreamer | None = None) -> str:
        """The model's answer to ``text``, both of which are turns from then on.

        Args:
            streamer: is given each token as it is made.

        Raises:
            UserError: the text alone is too long for the model; nothing was said.
        """
        ids, heard = self._heard(text)
        room = self._positions() - len(ids)
        config = copy.copy(self.config)
        config.max_new_tokens = min(self.max_new_tokens, room)
        given = torch.tensor([ids], device=self.model.device)
        found = self.model.generate(
            given, attention_mask=torch.ones_like(given), generation_config=config, streamer=streamer
        )
        answer = self.tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True).strip()
        self.turns = [*heard, ("user", text), ("assistant", answer)]
        return answer

    def _heard(self, text: str) -> tuple[list[int], list[Message]]:
        """What goes in, and which of the turns before are in it: the oldest go where the model has no room for all."""
        turns, positions = list(self.turns), self._positions()
        while True:
            ids = prompt_ids(Example((*self.system, *turns, ("user", text)), ""), self.tokenizer)
            if len(ids) + (min(self.max_new_tokens, positions // 4) if turns else 1) <= positions:
                return ids, turns
            if not turns:
                raise UserError(f"the text has {len(ids)} tokens, and the model has room for {positions}")
            turns = turns[2:]

    def _positions(self) -> int:
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or 2**31
