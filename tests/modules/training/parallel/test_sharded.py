"""A frozen base in shards: two processes compute what one does, for every method; what cannot be is refused."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from modules.training.checkpoint import EpochCheckpoint
from modules.training.parallel import sharded
from modules.training.parallel.plain_step import PlainStep
from modules.training.parallel.replicas import check_replicas
from modules.training.parallel.sharded import check_shardable, shard_base
from modules.training.run import run
from tests.support.adapter_files import facts
from tests.support.models import LABELS, MODELS, inputs
from tests.support.runs import adapter, carry_out, planned
from tests.support.small import small
from tests.support.two_processes import WORLD, in_two_processes
from variants import AdaptedModel, LoRA, attach
from variants.acceleration import accelerated
from variants.acceleration.basics import policy
from variants.acceleration.basics.policy import LARGE
from variants.acceleration.products.merged_weight import merged_weights
from variants.acceleration.products.shared_input import shared_inputs
from variants.contract.models import distance, shift
from variants.errors import UserError, VariantError
from variants.methods.lora import LoRALayer
from variants.registry import BUILT_IN
from variants.wrappers import in_shards, is_sharded

STEPS, LR, TOLERANCE = 2, 0.02, 1e-5
REFUSED = {"full", "galore", "ft_top2"}  # of two blocks all trains
SUBJECTS = [("roberta", name) for name in BUILT_IN if name not in {*REFUSED, "hra"}]  # which needs W₀U between passes
SUBJECTS += [(kind, name) for kind in ("llama", "gpt2", "gpt_neox") for name in ("lora",)] + [("gpt_neox", "dora")]
"""Model and method; gpt2 ties its embeddings and transposes its maps, gpt_neox interleaves queries, keys and values."""


def subject(kind: str, name: str) -> AdaptedModel:
    """A method on a tiny model, every tensor that trains away from its start."""
    adapted = attach(MODELS[kind](), small(name))
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, index, 0.05)
    adapted.model.eval()  # no dropout: its masks are a process's own
    return adapted


def train(adapted: AdaptedModel, kind: str, device: torch.device, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """What is learnt in a few steps, and their losses; each process takes its part of the rows."""
    batch = {k: v[rank::world].to(device) for k, v in inputs(kind, 8).items()}
    labels = (torch.arange(8) % LABELS)[rank::world].to(device)
    optimizer, losses = torch.optim.SGD(adapted.param_groups(LR), lr=LR), []
    trained = list(dict.fromkeys(adapted.trained().values()))
    for step in range(1, STEPS + 1):
        with accelerated(adapted):
            loss = F.cross_entropy(adapted.model(**batch).logits.float(), labels)
            penalty = adapted.penalty(1, 1)
            (loss if penalty is None else loss + penalty).backward()
        mean = loss.detach().clone()
        for tensor in (mean, *(parameter.grad for parameter in trained)) if world > 1 else ():
            dist.all_reduce(tensor)
            tensor /= world
        losses.append(mean)
        optimizer.step()
        adapted.after_step(step, STEPS)
        optimizer.zero_grad()
    with torch.no_grad():
        assert adapted.model(**batch).logits.isfinite().all()
    found = adapted.state_dict() | {"losses": torch.stack(losses)}
    return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


def shards(adapted: AdaptedModel) -> set[str]:
    return {name for name, parameter in adapted.model.named_parameters() if in_shards(parameter)}


def on_one_rank(device: torch.device) -> dict[str, object]:
    """What two processes learn and refuse, all in one pair of them: starting a pair takes longer than the rest."""
    warnings.simplefilter("ignore")
    rank, mesh, found = dist.get_rank(), init_device_mesh(device.type, (WORLD,)), {}
    for kind, name in SUBJECTS:
        policy.LARGE = LARGE if kind == "roberta" else 0  # functions of acceleration's own for every input
        adapted = subject(kind, name)
        frozen = {name for name, p in adapted.model.named_parameters() if not p.requires_grad}
        shard_base(adapted, mesh)
        adapted.model.to(device)
        assert is_sharded(adapted.model) and shards(adapted) <= frozen
        assert not any(in_shards(tensor) for tensor in adapted.state_dict().values())
        found[f"{kind} {name}"] = train(adapted, kind, device, rank, WORLD)
    adapted = subject("roberta", "lora")
    whole = sum(p.numel() for p in adapted.model.base_model.encoder.parameters() if not p.requires_grad)
    shard_base(adapted, mesh)
    parts = [p.to_local().numel() for p in adapted.model.parameters() if in_shards(p)]
    found["share"] = sum(parts) / whole
    found["merged"] = list(merged_weights(adapted.layers))
    maps = [new.func.__self__ for _, _, new in shared_inputs(adapted.model, []) if isinstance(new, partial)]
    found["joined"] = [len(each.modules) for each in maps]
    try:
        adapted.merge()
    except VariantError as error:
        found["merge"] = str(error)
    tensors = {"same": torch.ones(3), "flag": torch.tensor([True]), "other": torch.full((4,), float(rank)).cumsum(0)}
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    try:
        check_replicas(tensors)
    except UserError as error:
        found["drifted"] = str(error)
    check_replicas({"same": tensors["same"], "none": torch.full((2,), torch.nan, device=device)})
    swapped = torch.tensor([[1.0, 2.0], [2.0, 1.0]], device=device)[rank]  # of equal sum and norm
    try:
        check_replicas({"swapped": swapped})
    except UserError:
        found["swapped"] = True
    parameters = [nn.Parameter(torch.ones(2, device=device)) for _ in range(3)]
    step = PlainStep(lambda batch: ((rank + 1) * parameters[0].sum() + rank * parameters[1].sum(),), parameters)
    for _ in range(2):  # gradients of two batches are added up before they are averaged
        step({})
    step.average()
    found["averaged"] = [parameter.grad.tolist() for parameter in parameters], step.unused == parameters[2:]
    policy.LARGE = LARGE
    return found


def compare(results: list[dict], device: torch.device, tolerance: float) -> None:
    off = {}
    for kind, name in SUBJECTS:
        adapted = subject(kind, name)
        adapted.model.to(device)
        expected = train(adapted, kind, device)
        for result in results:
            pairs = [(expected[key], tensor) for key, tensor in result[f"{kind} {name}"].items()]
            worst = max(distance(*pair) for pair in pairs)
            if not worst <= tolerance:
                off[f"{kind} {name}"] = worst
    assert not off
    for result in results:
        assert 0.4 < result["share"] < 0.6
        assert result["merged"] == [], "copies of whole weights would be kept for the backward pass"
        assert result["joined"] == [], "whole weights would be kept side by side for good"
        assert "in shards" in result["merge"] and "load it on a whole model" in result["merge"]
        assert result["drifted"].startswith("other is another tensor on rank 1 than on rank 0")
        assert result["swapped"]
        assert result["averaged"] == ([[3.0, 3.0], [1.0, 1.0], [0.0, 0.0]], True)


@pytest.mark.slow
@pytest.mark.gpu("two of them", devices=WORLD)
def test_two_gpus_with_shards_learn_what_one_learns(tmp_path):
    compare(in_two_processes(tmp_path, on_one_rank, gpus=True), torch.device("cuda", 0), TOLERANCE)


# ---- a run ----------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What ends a run."""


def broken_off(device: torch.device, resumed: RunConfig, lacking: list[RunConfig]) -> list[str]:
    """A run that ends after its first epoch and goes on; what is said in runs whose layers give no gradient: on both
    ranks, or on one."""
    write, forward = EpochCheckpoint.on_train_epoch_end, LoRALayer.forward

    def once(*arguments: object) -> None:
        write(*arguments)
        raise Broken

    EpochCheckpoint.on_train_epoch_end = once
    with pytest.raises(Broken):
        run(resumed)
    EpochCheckpoint.on_train_epoch_end = write
    run(resumed)
    said = []
    for number, config in enumerate(lacking):
        lacks = number < 2 or dist.get_rank() == 1
        LoRALayer.forward = lambda own, x, y, lacks=lacks: y + 0 * own.lora_A.sum() if lacks else forward(own, x, y)
        try:
            run(config)
            said.append("")
        except UserError as error:
            said.append(str(error))
    return said


def on_one_rank_with_runs(device: torch.device, resumed: RunConfig, lacking: list[RunConfig]) -> tuple[dict, list[str]]:
    return on_one_rank(device), broken_off(device, resumed, lacking)


@pytest.mark.slow
def test_two_processes_with_shards(command, tmp_path):
    """They learn what one learns, with every built-in method; q, k, v in one map, interleaved, transposed; tied
    embeddings. A run goes on where it was broken off, and names what gets no gradient on any rank."""

    def spread(name: str, **trainer: object) -> RunConfig:
        return dataclasses.replace(
            whole, results_dir=str(tmp_path / name), trainer=whole.trainer | {"devices": 2} | trainer
        )

    (whole,) = planned(command)
    carry_out(whole)
    lacking = [spread("shards", strategy="fsdp2"), spread("ddp"), spread("one", strategy="fsdp2")]
    resumed = spread("resumed", strategy="fsdp2")
    (tmp_path / "work").mkdir()
    both = in_two_processes(tmp_path / "work", on_one_rank_with_runs, resumed, lacking)
    compare([found for found, _ in both], torch.device("cpu"), TOLERANCE)
    for _, said in both:
        assert all("lora_B trains but gets no gradient (4 such tensors)" in text for text in said[:2]), said
        assert said[2] == "", "what another rank uses is used"
    expected, found = (ResultStore(config.results_dir).read(config.id) for config in (whole, resumed))
    for one, other in zip(expected.epochs, found.epochs, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE)
    for which in ("best", "last"):
        mine, theirs = adapter(whole, which), adapter(resumed, which)
        assert mine.keys() == theirs.keys() and all(distance(mine[key], theirs[key]) <= TOLERANCE for key in mine)
        files = [facts(config.folder / which) for config in (whole, resumed)]
        assert files[0] == files[1] and files[0]["base"]["fingerprint"]


# ---- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_method_that_trains_all_blocks_is_refused(name):
    with pytest.raises(UserError, match=f"shards what is frozen, and {name} trains all of the blocks: use ddp"):
        check_shardable(subject("roberta", name), "32-true")


def test_a_base_of_two_dtypes_is_refused_in_one_line():
    adapted = subject("roberta", "lora")
    odd = adapted.model.get_parameter("roberta.encoder.layer.1.output.dense.weight")
    odd.data = odd.data.bfloat16()
    with pytest.raises(UserError) as caught:
        check_shardable(adapted, "32-true")
    text = str(caught.value)
    assert "layer.0.attention.self.query.weight is torch.float32" in text and "\n" not in text
    assert "layer.1.output.dense.weight torch.bfloat16: --trainer.precision bf16-mixed makes all" in text


def test_a_quantised_base_is_refused():
    adapted = attach(MODELS["roberta"](), LoRA(r=2))
    odd = adapted.model.roberta.encoder.layer[0].output.dense
    odd.weight = nn.Parameter(torch.zeros(odd.weight.shape, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UserError, match=r"cannot shard roberta\S+output.dense.weight, which is quantised \(torch.int8"):
        check_shardable(adapted, "32-true")


def test_fp16_an_old_torch_and_a_model_without_blocks_are_refused(monkeypatch):
    with pytest.raises(UserError, match="fsdp2 knows no fp16"):
        check_shardable(subject("roberta", "lora"), "16-mixed")
    flat = nn.Sequential()
    flat.first = nn.Linear(4, 4)
    with pytest.raises(UserError, match="shards a model's blocks, and Sequential has no numbered blocks: use ddp"):
        check_shardable(attach(flat, LoRA(r=2, target="first"), head=[]), "32-true")
    monkeypatch.setattr(sharded, "fully_shard", lambda module, *, mesh=None: module)
    with pytest.raises(UserError, match="needs torch 2.7 or newer"):
        check_shardable(subject("roberta", "lora"), "32-true")
