"""The efficiency benchmark: its batches, its limit, its steps, its bars and its command, on tiny models."""

from tests.support.efficiency import GPT2, ROBERTA

ROBERTA |= {"pad_token_id": 1, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ROBERTA |= {"intermediate_size": 24, "initializer_range": 0.2}
GPT2 |= {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
