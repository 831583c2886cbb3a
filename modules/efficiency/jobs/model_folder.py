"""Model folders with random weights and a tokenizer of the sentences at hand: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modules.efficiency.steps.backbones import build, is_language_model, sizes


def write_model(folder: Path, shape: str, sentences: Iterable[str], vocabulary: int) -> Path:
    """A backbone in random weights, and a byte-level BPE of the sentences; returns the folder.

    Args:
        shape: a key of `modules.efficiency.steps.backbones.SHAPES`: a RoBERTa or a GPT-2.
        vocabulary: the most tokens that the tokenizer knows. It decides how long rows are.
    """
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer, processors

    bpe, config = ByteLevelBPETokenizer(), sizes(shape)
    if is_language_model(config):
        special = ["<|endoftext|>"]
        names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), special[0])
    else:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
        names |= {"sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    bpe.train_from_iterator(sentences, vocab_size=vocabulary, special_tokens=special, show_progress=False)
    if not is_language_model(config):
        bpe._tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, model_input_names=["input_ids", "attention_mask"], **names
    )
    tokenizer.save_pretrained(folder)
    build(config, torch.device("cpu")).save_pretrained(folder)
    return folder
