"""The efficiency benchmark: its batches, its limit, its steps, its bars and its command, on tiny models."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from modules.command_line import guarded
from modules.data.padding import EDGES
from modules.data.samplers import TrainBatches
from modules.efficiency import (
    implementations,
    loss_curves,
    measure,
    peft_implementation,
    report,
    shapes,
    stepper,
    thresholds,
)
from modules.efficiency.measure import Scenario
from modules.paths import PROJECT
from modules.runs.environment import device_name
from paper_repro import efficiency

CPU = torch.device("cpu")
ROBERTA = {"model_type": "roberta", "vocab_size": 100, "max_position_embeddings": 520, "type_vocab_size": 1}
ROBERTA |= {"pad_token_id": 1, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ROBERTA |= {"intermediate_size": 24, "initializer_range": 0.2}
GPT2 = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512}
GPT2 |= {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
SMALL = {"vera": {"r": 12}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", ROBERTA)
    monkeypatch.setitem(shapes.SHAPES, "tiny-gpt2", GPT2)


def measured(scenario, patterns=(), **settings):
    found = {}
    chosen = implementations.grid(scenario.methods, scenario.modes, patterns, bf16=settings.get("bf16", False))
    settings = {"bf16": False, "rounds": 3, "passes": 1, "launches": False} | settings
    measure.measure(scenario, CPU, chosen, keep=found.update, **settings)
    return found


# ---- batches -----------------------------------------------------------------------------------------------


def test_tables_hold_every_task_of_glue_and_all_of_e2e():
    glue = shapes.table("glue")
    assert list(glue) == ["mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb"]
    assert glue["rte"].counts.sum() == 2490 and glue["sst2"].counts.sum() == 67_349
    medians = {task: np.repeat(t.tokens, t.counts).mean() for task, t in glue.items()}
    assert medians["cola"] < medians["sst2"] < medians["mrpc"] < medians["rte"]
    (e2e,) = shapes.table("e2e").values()
    assert e2e.counts.sum() == 42_061 and (e2e.targets < e2e.tokens).all()


def test_drawn_batches_have_the_lengths_of_the_table():
    batches = shapes.drawn_batches(ROBERTA, 400, "glue", CPU, 8)
    for batch, lengths in zip(batches, shapes.table("glue").values(), strict=True):
        drawn = batch["attention_mask"].sum(1).double()
        mean = (lengths.tokens * lengths.counts).sum() / lengths.counts.sum()
        assert drawn.mean().item() == pytest.approx(mean, rel=0.15)
        width = batch["input_ids"].shape[1]
        assert width in EDGES and drawn.max() <= width and all(drawn.max() > edge for edge in EDGES if edge < width)
        assert ((batch["input_ids"] == 1) == (batch["attention_mask"] == 0)).all()


def test_language_model_predicts_its_targets():
    for batch in shapes.drawn_batches(GPT2, 8, "e2e", CPU, 3):
        real = batch["weights"] > 0
        assert len(real) % shapes.MULTIPLE == 0 and batch["weights"].sum().item() == pytest.approx(1)
        nexts = batch["input_ids"].flatten()[batch["positions"][real] + 1]
        assert torch.equal(nexts, batch["targets"][real])
        assert batch["attention_mask"].flatten()[batch["positions"][real] + 1].all()


# ---- ways --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ROBERTA, GPT2], ids=["roberta", "gpt2"])
def test_limit_goes_through_every_block_and_trains_the_head_alone(config):
    master = shapes.build(config, CPU)
    trainee = implementations.make(implementations.Way("limit", "", "eager"), master, {}, bf16=False)
    reached = []
    model = trainee.handle.model
    blocks = model.transformer.h if config is GPT2 else model.roberta.encoder.layer
    for index, block in enumerate(blocks):
        block.register_full_backward_hook(lambda *_, index=index: reached.append(index))
    batch = shapes.fixed_batches(config, 4, 16, CPU)[0]
    trainee.loss(batch).backward()
    assert reached == [1, 0]
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if name.startswith("classifier")}
    plain = shapes.loss_of(master.eval(), batch)
    assert trainee.handle.model.eval() and torch.allclose(trainee.loss(batch), plain, atol=1e-5)


def test_limit_without_padding_computes_the_limits_loss():
    master = shapes.build(ROBERTA, CPU, dropout=False)
    batch = shapes.fixed_batches(ROBERTA, 4, 16, CPU)[0]
    padded, packed = (
        implementations.make(implementations.Way(library, "", "eager"), master, {}, bf16=False)
        for library in ("limit", implementations.LIMIT_PACKED)
    )
    tokens = []
    packed.handle.model.roberta.encoder.layer[0].intermediate.register_forward_hook(
        lambda module, inputs, output: tokens.append(output.shape[:-1].numel())
    )
    losses = [trainee.loss(shapes.picked(batch, trainee.kind)) for trainee in (padded, packed)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    assert tokens == [batch["attention_mask"].sum()]
    sum(losses).backward()
    for one, other in zip(padded.parameters, packed.parameters, strict=True):
        assert one.grad.abs().max() > 1e-4 and torch.allclose(one.grad, other.grad, atol=1e-6)
    names = [way.name for way in implementations.grid(("lora",), implementations.MODES, packed=False)]
    assert "limit graphs" in names and not any(name.startswith(implementations.LIMIT_PACKED) for name in names)


def test_ways_of_one_library_train_as_much_as_the_other():
    found = measured(Scenario("t", "tiny", 4, 16, modes=("eager",), options=SMALL))["ways"]
    for method in implementations.METHODS:
        assert found[f"ours {method} eager"]["trained"] == found[f"peft {method} eager"]["trained"]
    assert found["full eager"]["trained"] == sum(p.numel() for p in shapes.build(ROBERTA, CPU).parameters())
    assert all(len(record["rounds_ms"]) == 3 for record in found.values())


def test_bf16_keeps_what_trains_in_fp32():
    master = shapes.build(ROBERTA, CPU)
    options = {m: implementations.METHODS[m] | SMALL.get(m, {}) for m in implementations.METHODS}
    methods = {"limit": ("",), implementations.TOGETHER: ("lora",)}
    for library in ("limit", "ours", implementations.TOGETHER, "peft", "peft-bf16"):
        for method in methods.get(library, implementations.METHODS):
            trainee = implementations.make(implementations.Way(library, method, "eager"), master, options, bf16=True)
            wanted = torch.bfloat16 if library == "peft-bf16" else torch.float32
            assert {p.dtype for p in trainee.parameters} == {wanted}, (library, method)
            model = trainee.handle.model
            frozen = {p.dtype for p in model.parameters() if not p.requires_grad and p.ndim == 2}
            assert torch.bfloat16 in frozen
            assert np.isfinite(stepper.Stepper(trainee, "eager")(shapes.fixed_batches(ROBERTA, 4, 16, CPU)[0]).item())


def test_a_way_that_fails_is_a_row_and_stops_nobody():
    scenario = Scenario("t", "tiny", 4, 16, methods=("lora",), modes=("graphs", "eager"))
    found = measured(scenario, ("ours", "limit"))["ways"]
    if not torch.cuda.is_available():
        assert found["ours lora graphs"]["failed"] == "RuntimeError: CUDA graphs need a GPU"
    assert found["ours lora eager"]["step_ms"] > 0
    text = "\n".join(report._scenario(measured(scenario, ("ours", "limit"))))
    assert "| ours lora graphs | failed: RuntimeError: CUDA graphs need a GPU |" in text


def test_patterns_choose_ways():
    names = [
        way.name
        for way in implementations.grid(("lora", "adalora"), implementations.MODES, ("ours lora", "*adalora eager"))
    ]
    assert "ours lora trained" in names and "peft-bf16 adalora eager" in names
    assert all(n.startswith("ours lora") or n.endswith("adalora eager") for n in names)
    everything = [way.name for way in implementations.grid(("lora", "adalora"), implementations.MODES)]
    assert everything[-1].startswith("peft-bf16 adalora") and "peft adalora compiled" not in everything


# ---- curves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["tiny", "tiny-gpt2"])
def test_losses_equal_pefts(shape, monkeypatch):
    monkeypatch.setattr(loss_curves, "STEPS", 12)
    scenario = Scenario("t", shape, 4, 16, options=SMALL)
    records = list(loss_curves.compare(scenario, CPU, ("eager", "trained"), precisions=("fp32",)))
    assert len(records) == (8 if shape == "tiny" else 6)
    for record in records:
        assert record["difference"] < 1e-5 and record["effect"] > 1e-3 and loss_curves.agrees(record), record
        assert len(record["losses"]) == loss_curves.STEPS and max(record["pointwise"], record["gradient"]) < 1e-5
        start, *_, end = record["losses"][:: loss_curves.BATCHES]
        assert end < start  # something was learnt


def test_curves_tell_another_computation(monkeypatch):
    from variants.methods.lora import LoRALayer

    monkeypatch.setattr(LoRALayer, "forward", lambda self, x, y: y)  # as fast as can be
    scenario = Scenario("t", "tiny", 4, 16, methods=("lora",))
    record, rounded = loss_curves.compare(scenario, CPU, ("eager",), precisions=("fp32", "bf16"))
    assert record["difference"] == pytest.approx(record["effect"])
    assert not loss_curves.agrees(record) and not loss_curves.agrees(rounded)
    assert min(record["gradient"], rounded["gradient"]) > 0.1


def test_bf16_has_medians_over_starts_and_what_rounding_does_to_pefts(monkeypatch):
    monkeypatch.setattr(loss_curves, "STEPS", 6)
    scenario = Scenario("t", "tiny", 4, 16, methods=("lora",))
    (record,) = loss_curves.compare(scenario, CPU, ("eager",), precisions=("bf16",))
    draws = record["draws"]
    assert len(draws) == loss_curves.DRAWS
    for name in loss_curves.FIGURES:
        assert record[name] == sorted(draw[name] for draw in draws)[1]
    assert 0 < record["gradient"] < 3 * record["gradient_rounding"] < 0.3
    assert loss_curves.agrees(record) and not loss_curves.agrees(record | {"gradient": 3 * record["gradient_rounding"]})


def stepper_of(method, mode, device=CPU):
    """Ours, with batches of which not all have one shape once they are packed."""
    options = implementations.METHODS[method] | SMALL.get(method, {})
    master = shapes.build(ROBERTA, device, dropout=False)
    trainee = implementations.ours(master, method, options, bf16=False)
    assert trainee.kind == "packed"
    return stepper.Stepper(trainee, mode, loss_curves.RATE, faithful=True)


def packed_batches(device=CPU):
    batches = shapes.fixed_batches(ROBERTA, 32, 48, device, 3)
    assert len({shapes.shape_of(shapes.picked(batch, "packed")) for batch in batches}) > 1
    return batches


@pytest.mark.parametrize("method", implementations.METHODS)
def test_warming_up_between_steps_leaves_no_trace(method):
    """As where a batch's shape is new and gets its graph after other graphs' steps."""
    batches, plain, warmed = packed_batches(), stepper_of(method, "eager"), stepper_of(method, "eager")
    for batch in (*batches, *batches):
        with warmed._undone():
            for _ in range(stepper.WARM_UP):
                warmed._step(shapes.picked(batch, "packed"))
        assert torch.equal(warmed(batch), plain(batch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("method", implementations.METHODS)
def test_graphs_of_several_shapes_are_the_eager_step(method):
    device = torch.device("cuda")
    batches = packed_batches(device)
    graphs, eager = stepper_of(method, "graphs", device), stepper_of(method, "eager", device)
    for batch in batches * 3:
        assert graphs(batch).item() == pytest.approx(eager(batch).item(), rel=1e-3)
        mine, theirs = (torch.cat([p.grad.flatten() for p in one.parameters]) for one in (graphs, eager))
        assert (mine - theirs).norm() < 0.01 * theirs.norm()


# ---- bars --------------------------------------------------------------------------------------------------


def scenario_of(**rounds):
    return {"title": "t", "ways": {n.replace("_", " "): {"rounds_ms": r, "step_ms": r[0]} for n, r in rounds.items()}}


def test_ratios_are_taken_within_a_round():
    s = scenario_of(ours_lora_graphs=[1.0, 10.0, 100.0], limit_graphs=[1.0, 8.0, 50.0])
    assert thresholds.ratio(s, "ours lora graphs", "limit graphs") == (1.125, 1.25, 1.625)
    assert thresholds.ratio(s, "ours lora graphs", "limit eager") is None


def test_bars_compare_with_the_better_of_pefts_and_say_what_is_met():
    s = scenario_of(ours_lora_trained=[1.0] * 3, ours_lora_graphs=[9.0] * 3, limit_graphs=[0.9] * 3)
    s["ways"] |= scenario_of(peft_lora_eager=[8.0] * 3)["ways"]
    s["ways"]["peft-bf16 lora eager"] = {"rounds_ms": [4.0] * 3, "step_ms": 4.0}
    rows = {row["what"]: row for row in thresholds.rows({"scenarios": {"base": s}})}
    assert rows["ours lora trained / limit graphs"]["met"]
    against = rows["ours lora trained / peft-bf16 lora eager"]
    assert against["measured"] == (0.25, 0.25, 0.25) and against["limit"] == 0.2 and not against["met"]
    assert len(rows) == 2  # nothing is said of what was not measured


def test_a_job_counts_its_repeats_in_pairs():
    job = {"title": "j", "compared": ["a", "b"], "seconds": {"a": [1.0, 2.0], "b": [2.0, 5.0]}, "limit": 0.5}
    (row,) = thresholds.rows({"jobs": [job]})
    assert row["measured"][1] == pytest.approx(0.45) and row["met"]
    assert not thresholds.rows({"jobs": [job | {"limit": None}]})


# ---- whole jobs --------------------------------------------------------------------------------------------


def test_the_other_side_sees_the_same_rows():
    from modules.efficiency.hf_trainer_job import SameOrder

    order, ours = SameOrder(50, seed=3), TrainBatches(50, 8, seed=3)
    for epoch in range(2):
        ours.set_epoch(epoch)
        assert list(order) == np.concatenate([rows for rows, _ in ours]).tolist()


# ---- the command -------------------------------------------------------------------------------------------


def command(*words, out):
    return guarded(lambda: efficiency.main([*words, "--device", "cpu", "--curves", "off", "--out", str(out)]))


def test_command_writes_result_table_and_plot(tmp_path, monkeypatch):
    monkeypatch.setitem(measure.SCENARIOS, "tiny", Scenario("tiny", "tiny", 4, 16, methods=("lora",), modes=("eager",)))
    words = ["--scenarios", "tiny", "--ways", "limit,ours lora", "--rounds", "2"]
    assert command(*words, out=tmp_path) == 0
    (file,) = tmp_path.glob("cpu-*.json")
    result = json.loads(file.read_text())
    assert set(result["scenarios"]["tiny"]["ways"]) == {"limit eager", "limit-packed eager", "ours lora eager"}
    table = file.with_suffix(".md").read_text()
    assert "## tiny, 4 x 16 tokens" in table and "| ours lora eager |" in table
    pytest.importorskip("matplotlib")
    assert file.with_suffix(".svg").stat().st_size > 1000
    file.with_suffix(".md").unlink()
    assert command("--report_only", out=tmp_path) == 0
    assert file.with_suffix(".md").read_text() == table


def test_curves_of_other_methods_stay(tmp_path, monkeypatch):
    """A scenario of the same backbone that compares fewer methods replaces theirs alone; of several, the one with the
    most methods is compared."""
    found = iter((1.0, 2.0, 3.0))

    def compared(scenario, *args, **kwargs):
        value = next(found)
        common = {"shape": "tiny", "precision": "fp32", "library": "ours", "mode": "eager", "steps": 30, "effect": 9.0}
        return [common | {"method": method, "difference": value} for method in scenario.methods]

    monkeypatch.setattr(loss_curves, "compare", compared)
    monkeypatch.setattr(peft_implementation, "available", lambda: True)
    for key, methods in (("all", ("lora", "dora")), ("one", ("lora",))):
        monkeypatch.setitem(measure.SCENARIOS, key, Scenario(key, "tiny", 4, 16, methods=methods))
    for keys, kept in ("all", (1.0, 1.0)), ("one", (2.0, 1.0)), ("all,one", (3.0, 3.0)):
        words = ["--scenarios", keys, "--device", "cpu", "--curves", "only", "--out", str(tmp_path)]
        assert guarded(lambda words=words: efficiency.main(words)) == 0
        (file,) = tmp_path.glob("cpu-*.json")
        records = {record["method"]: record["difference"] for record in json.loads(file.read_text())["curves"]}
        assert (records["lora"], records["dora"]) == kept


@pytest.mark.parametrize(
    "words, said",
    [
        (["--scenarios", "big"], "unknown 'big'; there are base"),
        (["--modes", "fast"], "unknown 'fast'"),
        (["--ways", "theirs"], "leave nothing of small"),
        (["--shape", "bert"], "the backbones are"),
        (["--report_only"], "does not exist"),
        (["--job", "--data_dir", "nowhere"], "--data_dir"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, said):
    assert command(*words, out=tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_foreign_file_is_not_overwritten(tmp_path):
    file = tmp_path / f"{efficiency.slug(device_name('cpu'), 'cpu')}.json"
    file.write_text("{}")
    assert command(out=tmp_path) == 2
    assert file.read_text() == "{}"


def test_help_is_quick():
    line = [sys.executable, "-X", "importtime", str(PROJECT / "paper_repro" / "efficiency.py"), "--help"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=PROJECT, check=True)
    assert "--scenarios" in done.stdout
    assert not [name for name in ("torch", "transformers", "lightning", "matplotlib") if f"| {name}\n" in done.stderr]
