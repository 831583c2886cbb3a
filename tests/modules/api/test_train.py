"""Training from Python: the commands' names, checks and runs, in the process of the caller."""

import os
import random
import signal
import sys
import threading
import types
import warnings
from dataclasses import dataclass

import pytest
import torch

from modules import Results, RunResult, train
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from tests.support.runs import planned
from variants import LoRA, Variant
from variants.errors import UserError

CELL = '''
from dataclasses import dataclass
from variants import LoRA, register

FACTOR = 1.0

@register("of-a-cell")
@dataclass
class OfACell(LoRA):
    """LoRA with another start."""

    factor: float = FACTOR

    def penalty(self, layers, step, total_steps):
        return None
'''


@pytest.fixture
def small(tiny_model, tiny_tsv, tmp_path) -> dict:
    """Keywords of a small run."""
    return {
        "model": tiny_model, "data_dir": tiny_tsv, "results_dir": tmp_path / "results", "wandb": "off", "epochs": 1,
        "batch_size": 8, "trainer": {"accelerator": "cpu"},
    }  # fmt: skip


@pytest.fixture
def cell(monkeypatch):
    """What a notebook's kernel is: a main module of no file, in which cells define classes."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)

    def run(text: str) -> type:
        exec(compile(text, "<cell>", "exec"), vars(main))
        return main.OfACell

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # registered again
        yield run


def test_a_call_is_the_run_of_the_same_command_line(small, command, capsys):
    result = train("lora", task="rte", r=4, seed=3, epochs=2, **{k: v for k, v in small.items() if k != "epochs"})
    words = [*command, "--r", "4", "--seeds", "3"]
    (run,) = planned(words)
    assert isinstance(result, RunResult) and result.id == run.id
    assert "backbone: tiny-roberta (folder)" in capsys.readouterr().out
    assert ResultStore(small["results_dir"]).read(run.id) == result
    assert RunConfig.read(str(small["results_dir"]), run.id).id == run.id
    assert (result.folder / "best" / "adapter.safetensors").is_file()


def test_what_is_done_comes_at_once_and_says_nothing(small, capsys, monkeypatch):
    first = train("head", task="rte", **small)
    capsys.readouterr()
    monkeypatch.setattr("modules.training.run.run_seeds", None)
    assert train("head", task="rte", **small) == first
    assert capsys.readouterr() == ("", "")
    with pytest.raises(TypeError):
        train("head", task="rte", force=True, **small)


def test_one_run_is_a_result_and_several_are_a_list_of_them(small, monkeypatch):
    one = train("head", task="rte", **small)
    assert isinstance(train("head", task="rte", seed=0, **small), RunResult)
    assert train("head", tasks=["rte"], **small) == Results([one]) == train("head", task="rte", seeds=[0], **small)
    several = train("head", tasks="stsb,rte", seeds="0,1", stack_seeds=True, progress=False, **small)
    assert [(run.task, run.seed) for run in several] == [("stsb", 0), ("stsb", 1), ("rte", 0), ("rte", 1)]
    frame = several.to_frame()
    assert frame["score"].tolist() == [run.best[run.metric] for run in several]
    assert frame["task"].tolist() == ["stsb", "stsb", "rte", "rte"] and (frame["epochs"] == 1).all()
    assert repr(several).splitlines()[0] == "Results of 4 runs" and len(repr(several).splitlines()) == 3
    assert "rte head" in repr(several) and "seeds 0,1" in repr(several) and "<table" in several._repr_html_()
    both = several + [one]
    assert isinstance(both, Results) and len(both) == 5 and len(both.epochs()) == 5
    assert both.epochs().columns.tolist()[:5] == ["id", "benchmark", "task", "variant", "seed"]


def test_a_run_that_another_starts_from_is_trained_and_not_returned(small):
    result = train("lora", task="rte", mnli_init=True, r=2, **small)
    assert result.task == "rte" and result.init_from["task"] == "mnli"
    assert ResultStore(small["results_dir"]).read(result.init_from["id"]).task == "mnli"


@pytest.mark.parametrize(
    "options, line",
    [
        ({"alhpa": 4}, r"^unknown option alhpa; did you mean alpha.*\?$"),
        ({"rank": 4}, r"^unknown option rank; did you mean r\?$"),
        ({"learning_rate": 1e-3}, r"^unknown option learning_rate; did you mean lr\?$"),
        ({"init_r": 4}, "^init_r is an option of adalora, not of lora$"),
        ({"r": "many"}, "^r must be .*, not 'many'$"),
        ({"epochs": -1}, "epochs must be a positive whole number"),
        ({"wandb": "onlin"}, "^wandb must be one of auto, online, offline, off"),
        ({"jobs": 2}, "^jobs is a flag of the commands alone"),
        ({"trainer": {"devicess": 2}}, "^trainer.devicess is no option of lightning.Trainer; did you mean devices"),
        (
            {"trainer": {"xyz": 2}},
            "^trainer.xyz is no option of lightning.Trainer; lightning's documentation lists them",
        ),
        ({"tasks": ["rte"]}, "^give either task or tasks$"),
        ({"seed": 0, "seeds": [0]}, "^give either seed or seeds$"),
        ({"task": "ret"}, "unknown task 'ret'"),
        ({"benchmark": "gleu"}, "^unknown benchmark 'gleu'; did you mean glue\\?"),
        ({"model": "no/such/folder"}, "is neither a folder nor a Hub id"),
        ({"preset": "papr"}, "unknown preset 'papr'"),
        ({"seeds": [0, "one"]}, "seeds must be whole numbers"),
    ],
)
def test_mistakes_are_said_as_on_the_command_line(options, line, small):
    with pytest.raises(UserError, match=line):
        train("lora", **{"task": "rte"} | small | options)


def test_variants_are_named_or_given(small):
    assert train(LoRA, task="rte", r=2, **small) == train("lora", task="rte", r=2, **small)
    with pytest.raises(UserError, match="did you mean lora"):
        train("lorra", task="rte", **small)
    for wrong in (LoRA(), torch.nn.Linear):
        with pytest.raises(UserError, match="a variant is a name or a class"):
            train(wrong, task="rte", **small)

    @dataclass
    class Hidden(Variant):
        pass

    with pytest.raises(UserError, match="define it at the top of a cell"):
        train(Hidden, task="rte", **small)


def test_a_class_of_a_notebook_trains_and_is_another_when_its_cell_changes(cell, small):
    first = train(cell(CELL), task="rte", r=2, **small)
    assert first.variant == "of-a-cell" and first.code
    assert train(cell(CELL), task="rte", r=2, **small) == first == train("of-a-cell", task="rte", r=2, **small)
    changed = train(cell(CELL.replace("return None", "return 0.0 * layers[0].lora_A.sum()")), task="rte", r=2, **small)
    assert changed.id != first.id and changed.code != first.code
    assert first.load()[0].config.num_labels == 2  # with a warning that the code has changed since
    old = cell(CELL)
    cell(CELL)
    with pytest.raises(UserError, match="pass the newest definition"):
        train(old, task="rte", r=2, **small)
    with pytest.raises(UserError, match="put the class in a file"):
        train("of-a-cell", task="rte", r=3, **small | {"trainer": {"accelerator": "cpu", "devices": 2}})


def test_progress_is_shown_or_nothing_is_said(small, capsys):
    train("lora", task="rte", r=2, **small)
    assert "rte lora seed 0: epoch 1/1, accuracy" in capsys.readouterr().out
    train("lora", task="rte", r=3, progress=False, **small)
    assert capsys.readouterr() == ("", "")


def test_the_process_stays_as_it_was(small):
    torch.manual_seed(5), random.seed(5)
    wanted = torch.rand(2), random.random()
    filters, variables = list(warnings.filters), {k: v for k, v in os.environ.items() if k.startswith("PL_")}
    torch.manual_seed(5), random.seed(5)
    train("head", task="rte", **small)
    assert torch.equal(torch.rand(2), wanted[0]) and random.random() == wanted[1]
    assert warnings.filters == filters
    assert {k: v for k, v in os.environ.items() if k.startswith("PL_")} == variables


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal to this thread")
def test_an_interrupt_is_one_and_the_next_call_goes_on(small, monkeypatch, capsys):
    from modules.training.history import History

    small |= {"epochs": 3}
    whole = train("lora", task="rte", r=2, **small | {"results_dir": small["results_dir"] / "whole"})
    taken = History.take

    def interrupt(self, figures):
        taken(self, figures)
        if figures["epoch"] == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    numbers, drawn = random.getstate(), torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(History, "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train("lora", task="rte", r=2, **small)
    assert random.getstate() == numbers and torch.equal(torch.get_rng_state(), drawn)
    assert signal.getsignal(signal.SIGINT) is handler
    assert "the same call goes on from here" in capsys.readouterr().err
    assert ResultStore(small["results_dir"]).all() == []
    seen: list[int] = []
    monkeypatch.setattr(History, "take", lambda self, figures: (seen.append(figures["epoch"]), taken(self, figures)))
    again = train("lora", task="rte", r=2, **small)
    assert seen[0] > 1 and [figures["epoch"] for figures in again.epochs] == [1, 2, 3]
    assert again.epochs == whole.epochs
