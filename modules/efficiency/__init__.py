"""How near training comes to what the hardware allows: ours, PEFT, full fine-tuning and the limit side by side.

An *implementation* of the training step is a library (`ours`, `peft`, `full`, `limit`), a method and a mode (`eager`,
`compiled`, `graphs`, ...); flags and files call it a *way*. The *limit* is the frozen model's forward pass and the
backward pass to its activations alone, with the task head trained: the least that any adapter must compute. A
*scenario* is a backbone on batches of a kind, for which all implementations take turns within each round.
"""
