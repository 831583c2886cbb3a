"""How near training comes to what the hardware allows: ours, PEFT, full fine-tuning and the limit side by side.

A *way* is one manner of taking the same training step: a library (`ours`, `peft`, `full`, `limit`), a method and a mode
(`eager`, `compiled`, `graphs`, ...). The *limit* is the frozen model's forward pass and the backward pass to its
activations alone, with the task head trained: what any adapter must do at the least. A *scenario* is one backbone on
batches of one kind, with all ways taken in turn within each round, so that noise falls on all alike.

`shapes` has the backbones and batches, `ways` and `peft_ways` build models, `steps` takes steps, `measure` times them,
`curves` compares losses, `job` whole fine-tuning jobs, `bars` and `report` say what came out.
"""
