"""What a language model loses where its weights are kept in few bits: perplexity (QLoRA's Table 2)."""
