"""What language models are trained on: the loss of each target token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.benchmarks.causal import token_losses
from modules.benchmarks.objective import Batch, Losses, Objective
from modules.data.packing import LAYOUT


class CausalLM(Objective):
    """Cross-entropy of the target tokens: its mean over those of the global batch.

    No logits are computed where there is no target.
    """

    label_smoothing = 0.0
    """In training alone."""

    def losses(self, model: nn.Module, batch: Batch, training: bool) -> Losses:
        """A loss for each of the batch's K target tokens.

        Padding comes after the rows' tokens, where a causal model cannot see it: it needs no mask, which would cost
        the fused causal attention. Embeddings go in, and not ids, which transformers would search for padding from the
        host. Both keep a GPU waiting in every step. Packed rows say where they lie.
        """
        embeddings = model.get_input_embeddings()(batch["input_ids"])
        layout = {name: batch[name] for name in LAYOUT if name in batch}
        hidden = model.base_model(inputs_embeds=embeddings, use_cache=False, **layout).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, batch["positions"])  # (K, d)
        smoothing = self.label_smoothing if training else 0.0
        return token_losses.token_losses(model, chosen, batch["targets"], smoothing), batch["weights"], None

    # ---- stacked adapters ------------------------------------------------------------------------------------

    def copies(self, size: int) -> list[Objective]:
        """This one `size` times."""
        return [self] * size  # it keeps nothing between batches

    def sums(self, values: Tensor, batch: Batch, size: int) -> Tensor:
        """A row has as many losses as targets: whose they are is where they are."""
        owners = batch["positions"] // (batch["input_ids"].numel() // size)  # (K,)
        each = torch.arange(size, device=owners.device)[:, None]
        return torch.where(owners == each, values, 0).sum(1)

    def repeated(self, batch: Batch, size: int) -> Batch:
        """The same rows for each adapter; `positions` point into the longer batch."""
        shifts = batch["input_ids"].numel() * torch.arange(size, device=batch["positions"].device)
        positions = (batch["positions"] + shifts[:, None]).flatten()
        return super().repeated(batch, size) | {"positions": positions}
