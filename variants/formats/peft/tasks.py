"""PEFT's task types: each is a class of PEFT's that calls the model with arguments of its own choice."""

from __future__ import annotations

import importlib
import inspect

from torch import nn

from variants.formats.common import is_stand_in

TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""End of a transformers class name -> PEFT's ``task_type``."""

HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}
"""Modules that PEFT saves with any adapter of such a task, where the model has them."""

_ALWAYS = {"input_ids", "attention_mask", "inputs_embeds"}
_DECODER = {"decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds"}
_PASSED = {
    "SEQ_CLS": _ALWAYS | {"labels"},
    "TOKEN_CLS": _ALWAYS | {"labels"},
    "QUESTION_ANS": _ALWAYS | {"start_positions", "end_positions"},
    "SEQ_2_SEQ_LM": _ALWAYS | _DECODER | {"labels"},
    "CAUSAL_LM": _ALWAYS | {"labels"},
}
"""What PEFT's class of a task passes to the model by name, whether or not its caller gave it."""


def task_of(model: nn.Module) -> str | None:
    """The task type with which PEFT can call a model, told by its class; None where it is to pass on what it is given.

    A model of speech or pictures takes other inputs than the tasks of its name's end pass.
    """
    cls = type(model)
    task = next((task for end, task in TASKS.items() if cls.__name__.endswith(end)), None)
    if is_stand_in(model):
        try:
            cls = getattr(importlib.import_module("transformers"), cls.__name__, nn.Module)
        except ImportError:
            return task
    if task is None or not isinstance(cls, type) or not issubclass(cls, nn.Module):
        return None
    takes = set(inspect.signature(cls.forward).parameters)
    generates = task not in ("SEQ_2_SEQ_LM", "CAUSAL_LM") or hasattr(cls, "prepare_inputs_for_generation")
    return task if takes >= _PASSED[task] and generates else None
