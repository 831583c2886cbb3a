"""New tokens: rows of the embedding that train alone, while all old rows stay bit by bit what they were.

`add_tokens` gives the embedding a child that holds the new rows as a parameter of its own, and puts them in the place
of the embedding's; the output embedding gets the same rows where the two are tied, else rows of its own. They belong to
the task head: they train, are counted, saved, switched and loaded as a head is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.errors import VariantError
from variants.sites.architectures import output_embedding
from variants.wrappers import unwrapped


class Described(TypedDict):
    """What an adapter's file says of new tokens: their texts, the first one's id, and rows of the embedding."""

    tokens: list[str]
    first: int
    size: int


class NewTokens(nn.Module):
    """The rows of consecutive tokens.

    Args:
        tokens: their texts.
        first: the first one's id.
        rows: their values at the start, (tokens, d).
    """

    belongs_to_head = True

    def __init__(self, tokens: Sequence[str], first: int, rows: Tensor) -> None:
        super().__init__()
        self.tokens, self.first = list(tokens), first
        self.rows = nn.Parameter(rows.detach().clone())

    @property
    def ids(self) -> slice:
        """The tokens' ids."""
        return slice(self.first, self.first + len(self.tokens))


def add_tokens(model: nn.Module, tokenizer: Any, tokens: Sequence[str], special: bool = False) -> int:
    """Add tokens to a tokenizer and train their embeddings, and no others, with the adapters attached afterwards.

    The embedding grows where it has no rows to spare. Each new row starts as the mean of all old ones.

    Args:
        model: a transformers model that is not adapted yet.
        tokenizer: of the model; save it with the adapter.
        tokens: those that it knows already are left as they are.
        special: whether they are left out of decoded texts, as the end of a text is.

    Returns:
        How many are new.

    Raises:
        VariantError: the model is adapted, has new tokens already, or computes its embeddings in a way of its own.
    """
    model, first = unwrapped(model), len(tokenizer)
    _refuse(model)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    if count := len(tokenizer) - first:
        texts = tokenizer.convert_ids_to_tokens(list(range(first, first + count)))
        size = max(model.get_input_embeddings().num_embeddings, len(tokenizer))
        prepare(model, {"tokens": texts, "first": first, "size": size})
    return count


def prepare(model: nn.Module, new: Described) -> None:
    """Give a model the rows of tokens that its tokenizer knows, or that an adapter's file describes.

    Raises:
        VariantError: as in :func:`add_tokens`; or the tokens do not fit behind the model's own.
    """
    _refuse(model)
    embedding = model.get_input_embeddings()
    first, count, old = new["first"], len(new["tokens"]), embedding.num_embeddings
    if not (0 < first <= old and count and first + count <= new["size"] and old <= new["size"] <= old + count):
        raise VariantError(f"{count} new tokens from {first} on, of {new['size']}, do not fit behind {old} tokens")
    head = output_embedding(model)
    means = [m.weight.detach()[:first].mean(0, dtype=torch.float32) for m in (embedding, head) if m is not None]
    if new["size"] > old:
        model.resize_token_embeddings(new["size"], mean_resizing=False)
        embedding, head = model.get_input_embeddings(), output_embedding(model)
    modules = [embedding, *([] if head is None or head.weight is embedding.weight else [head])]
    for module, mean in zip(modules, means, strict=False):
        with torch.no_grad():
            module.weight[first : first + count] = mean.to(module.weight.dtype)
        module.new_tokens = NewTokens(new["tokens"], first, module.weight[first : first + count])
    if len(modules) == 1 and head is not None:
        head.new_tokens = embedding.new_tokens
    embedding.register_forward_hook(_look_up)
    if head is not None:
        head.register_forward_hook(_score)


def described(model: nn.Module) -> Described | None:
    """What a file says of a model's new tokens; None where it has none."""
    for path, own in modules_of(model).items():
        return {"tokens": own.tokens, "first": own.first, "size": len(model.get_submodule(path).weight)}
    return None


@contextmanager
def written(model: nn.Module) -> Iterator[None]:
    """``with`` this, the embeddings' own rows are the new ones, for whoever reads the weights and not the hooks."""
    former: list[tuple[nn.Module, Tensor]] = []
    with torch.no_grad():
        for module in [m for m in model.modules() if isinstance(m._modules.get("new_tokens"), NewTokens)]:
            former.append((module, module.weight[module.new_tokens.ids].clone()))
            module.weight[module.new_tokens.ids] = module.new_tokens.rows.to(module.weight.dtype)
    try:
        yield
    finally:
        with torch.no_grad():
            for module, rows in reversed(former):
                module.weight[module.new_tokens.ids] = rows


def own_keys(model: nn.Module) -> list[str]:
    """How the keys of new rows begin in the model's state: a plain model has none of them."""
    return [f"{path}." for path, m in model.named_modules(remove_duplicate=False) if isinstance(m, NewTokens)]


def modules_of(model: nn.Module) -> dict[str, NewTokens]:
    """Path of each module that has new rows -> these; of modules that share them the first."""
    return {path.rpartition(".")[0]: m for path, m in model.named_modules() if isinstance(m, NewTokens)}


def _refuse(model: nn.Module) -> None:
    if any("adapter" in module._modules for module in model.modules()):
        raise VariantError("the model carries adapters already: add tokens first, then attach")
    if not hasattr(model, "resize_token_embeddings"):
        raise VariantError(f"{type(model).__name__} is no transformers model, whose embeddings can grow")
    embedding = model.get_input_embeddings()
    if "new_tokens" in embedding._modules:
        raise VariantError("the model has new tokens already: name all of them at once")
    plain = type(embedding).forward is nn.Embedding.forward or hasattr(embedding, "embed_scale")
    if not isinstance(embedding, nn.Embedding) or not plain or embedding.max_norm is not None:
        raise VariantError(
            f"{type(embedding).__name__} computes embeddings in a way of its own: no row can train alone"
        )
    head = output_embedding(model)
    if head is not None and not (isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward):
        raise VariantError(f"{type(head).__name__} computes logits in a way of its own: no row can train alone")


# functions of the module, not closures: copies and pickles of the model find the copy's rows


def _look_up(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    own, ids = module.new_tokens, args[0]
    number = ids - own.first
    rows = F.embedding(number.clamp(0, len(own.tokens) - 1), own.rows) * getattr(module, "embed_scale", 1.0)
    new = (number >= 0) & (number < len(own.tokens))
    return torch.where(new[..., None], rows.to(output.dtype), output)


def _score(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    own = module.new_tokens
    bias = None if module.bias is None else module.bias[own.ids]
    logits = F.linear(args[0], own.rows.to(args[0].dtype), bias)
    return torch.cat([output[..., : own.first], logits, output[..., own.ids.stop :]], dim=-1)


def check_described(new: Mapping[str, Any], where: object) -> Described:
    """The entry of a file, of the right types.

    Raises:
        VariantError: it is none.
    """
    tokens, numbers = new.get("tokens"), [new.get("first"), new.get("size")]
    if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
        raise VariantError(f"{where}: new_tokens has no list of tokens")
    if not all(type(number) is int for number in numbers):
        raise VariantError(f"{where}: new_tokens lacks the numbers first and size")
    return {"tokens": tokens, "first": numbers[0], "size": numbers[1]}
