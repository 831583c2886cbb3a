"""An encoder that gets rows without padding computes what it does with padding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from modules.acceleration.frozen_precision import lower_frozen
from modules.acceleration.packed_encoder import Packing, first_position, pack
from modules.data.packing import Layout
from tests.support.models import MODELS
from tests.support.tiny import train
from variants import AdapterLayer, LoRA, attach
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.methods.lora import LoRALayer
from variants.registry import resolve
from variants.sites.site import ModuleSite

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])


def packed(ids: torch.Tensor, mask: torch.Tensor, parts: int = 1, multiple: int = 1) -> dict[str, torch.Tensor]:
    """The rows of a padded batch one behind the other."""
    layout = Layout.of(mask.sum(1).reshape(parts, -1).numpy(), multiple)
    return {
        "input_ids": layout.spread(ids[mask == 1].numpy(), 1),
        "position_ids": layout.spread(layout.positions, 0),
        "starts": torch.from_numpy(layout.starts),
        "ends": torch.from_numpy(layout.ends),
        "columns": torch.from_numpy(layout.columns),
    }


def outcome(
    adapted, mask: torch.Tensor, packing: Packing | None = None, padded: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of a fixed batch, and the gradients of all that trains.

    Args:
        packing: of the model; the batch is packed, unless it is to be ``padded``.
    """
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(1)).where(mask == 1, 1)
    batch = {"input_ids": ids, "attention_mask": mask}
    if packing and not padded:
        batch = packed(ids, mask)
        batch["position_ids"] += packing.first_position
    with accelerated(adapted, exclude=packing.excluded if packing else ()):
        logits = adapted.model(**batch).logits
    trained = adapted.trained()
    found = torch.autograd.grad(logits.square().sum(), list(trained.values()))
    return logits.detach(), dict(zip(trained, found, strict=True))


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "full"])
@pytest.mark.parametrize("variant", ["lora", "dora", "full", "bitfit", "adapter_h", "adapter_p"])
@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_logits_and_gradients_are_those_with_padding(architecture, variant, mask):
    adapted = attach(MODELS[architecture](), resolve(variant)(), seed=0)
    train(adapted.trained(), seed=3)
    logits, gradients = outcome(adapted, mask)
    packing = pack(adapted)
    for padded in (False, True):  # it still takes padded batches
        again, own = outcome(adapted, mask, packing, padded)
        torch.testing.assert_close(again, logits)
        for name, gradient in gradients.items():
            say = lambda text, name=name: f"{name}: {text}"  # noqa: E731
            torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-5, msg=say)


@pytest.mark.parametrize("variant", ["lora", "adapter_p"])
@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_released_the_model_is_what_it_was(architecture, variant):
    """Bit-equal outputs and gradients, and neither a hook nor an attribute more than before."""

    def traces() -> dict[str, tuple]:
        return {
            name: (set(vars(module)), *(len(vars(module)[key]) for key in vars(module) if key.endswith("_hooks")))
            for name, module in adapted.model.named_modules()
        }

    adapted = attach(MODELS[architecture](), resolve(variant)(), seed=0)
    train(adapted.trained(), seed=3)
    (logits, gradients), before = outcome(adapted, MASK), traces()
    packing = pack(adapted)
    assert pack(adapted) is None  # its blocks' forward functions are replaced already
    outcome(adapted, MASK, packing)
    assert traces() != before
    packing.release()
    assert traces() == before
    again, own = outcome(adapted, MASK)
    assert torch.equal(again, logits) and all(torch.equal(own[name], gradients[name]) for name in gradients)
    outcome(adapted, MASK, pack(adapted))  # and it can be packed anew


def test_blocks_see_tokens_alone_and_the_last_one_the_first_of_each_row():
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    blocks = len(adapted.model.base_model.encoder.layer)
    seen: list[torch.Size] = []
    for module in adapted.model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda module, args, output: seen.append(output.shape[:-1]))
    outcome(adapted, MASK, pack(adapted))
    tokens = int(MASK.sum())
    assert seen == [(1, tokens)] + [(tokens,)] * 2 * (blocks - 1) + [(3,)] * 2  # the first is the embeddings'


def test_queries_of_the_last_block_read_alone():
    """What the other maps of that block compute is for all tokens; it is no product more than needed."""
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    packing = pack(adapted)
    products = []

    class Sizes(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is F.linear:
                products.append((args[0].shape[-2], len(args[1])))
            return function(*args, **(kwargs or {}))

    with Sizes(), for_graph():
        outcome(adapted, MASK, packing)
    width, tokens, rows = adapted.model.config.hidden_size, int(MASK.sum()), len(MASK)
    assert products.count((tokens, 2 * width)) == 1 and products.count((tokens, 3 * width)) == 1  # of two blocks
    assert (rows, width) in products and (rows, 3 * width) not in products


def test_rows_that_do_not_fill_their_batch_are_refused_on_a_cpu():
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    pack(adapted)
    with pytest.raises(ValueError, match="must fill"):
        adapted.model(**packed(torch.full_like(MASK, 7), MASK, multiple=16))


@pytest.mark.parametrize("variant", ["prefix_embed", "prefix_layer", "prefix_tuning"])
def test_prefixes_keep_their_padding(variant):
    assert not pack(attach(MODELS["roberta"](), resolve(variant)(), seed=0))


def test_a_layer_that_says_nothing_of_tokens_keeps_its_padding():
    """A method from outside may look at neighbours: nothing is taken from under it."""

    class Shifted(LoRA):
        class layer(LoRALayer):  # noqa: N801
            per_token = AdapterLayer.per_token

            def forward(self, x, y):
                return y + F.linear(x.roll(1, dims=-2), self.delta_weight())

    assert not pack(attach(MODELS["roberta"](), Shifted(), seed=0))
    assert pack(attach(MODELS["roberta"](), LoRA(), seed=0))


@pytest.mark.parametrize("architecture", ["distilbert", "deberta-v2", "gpt2"])
def test_other_models_keep_their_padding(architecture):
    assert not pack(attach(MODELS[architecture](), resolve("lora")(), seed=0))


@pytest.mark.parametrize("lowered", [False, True], ids=["mixed", "backbone"])
def test_bf16_too(lowered):
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    train(adapted.trained(), seed=3)
    if lowered:
        adapted.model.base_model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients = outcome(adapted, MASK)
        again, own = outcome(adapted, MASK, pack(adapted))
    torch.testing.assert_close(again, logits, rtol=0.02, atol=0.02)
    total, difference = (
        sum(g.float().square().sum() for g in each)
        for each in (gradients.values(), [own[name] - gradient for name, gradient in gradients.items()])
    )
    assert difference < 0.01 * total


def test_a_layer_on_attention_itself_keeps_its_padding():
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    site = adapted.layers[0].site
    assert site.module is not (module := adapted.model.base_model.encoder.layer[0].attention.self)
    adapted.layers[0].site = ModuleSite(module, site.path, site.module_path, like=site)
    assert not pack(adapted)


needs_gpu = pytest.mark.gpu("its attention of packed rows")


@needs_gpu
@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize("variant", ["lora", "dora", "vera", "adapter_p"])
def test_packed_on_a_gpu_computes_what_padded_does(variant, lowered):
    model = MODELS["roberta"]()
    if lowered:
        lower_frozen(model, torch.bfloat16)
    adapted = attach(model, resolve(variant)(), seed=0)
    train(adapted.trained(), seed=3)
    model.cuda()
    ids = torch.randint(5, 50, MASK.shape, generator=torch.Generator().manual_seed(1)).where(MASK == 1, 1)
    padded = {"input_ids": ids, "attention_mask": MASK}
    filled = packed(ids, MASK, multiple=16)
    filled["position_ids"] += first_position(adapted.model)
    packing = pack(adapted)
    outcomes = []
    for batch in (padded, filled):
        with accelerated(adapted, exclude=packing.excluded):
            logits = adapted.model(**{name: x.cuda() for name, x in batch.items()}).logits.float()
        found = torch.autograd.grad(logits.square().sum(), list(adapted.trained().values()))
        outcomes.append((logits, torch.cat([g.flatten().float() for g in found])))
    (logits, gradient), (again, own) = outcomes
    close = {"rtol": 0.03, "atol": 0.03} if lowered else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(again, logits, **close)
    assert (own - gradient).norm() < (0.05 if lowered else 1e-3) * gradient.norm()
