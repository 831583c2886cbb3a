"""Supervised fine-tuning of causal language models on instructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.benchmarks.base import Benchmark, Column, Prepared, batch_sizes
from modules.benchmarks.instruct.description import FLAGS, Description
from modules.benchmarks.instruct.settings import InstructSettings
from modules.benchmarks.instruct.tasks import ARITHMETIC, COMMONSENSE, SKILLS, TASKS, InstructTask
from modules.data.task import Task
from variants.errors import UserError

if TYPE_CHECKING:
    from modules.data.source import Source
    from modules.runs.config import RunConfig
    from modules.runs.results import RunResult


class InstructTuning(Benchmark):
    """See `modules/benchmarks/base.py`."""

    name = "instruct"
    title = "Instruction tuning"
    script = "instruct.py"
    description = (
        "Fine-tune a causal language model (LLaMA, Qwen, Mistral, Gemma, ...) on instructions with a LoRA variant, "
        "score its answers, and show the papers' rows beside it."
    )
    examples = """examples:
  python paper_repro/instruct.py --variant lora --r 16                           what fits this machine
  python paper_repro/instruct.py --data my.jsonl --model FOLDER --variant dora   your own instructions, your model
  python paper_repro/instruct.py --tasks commonsense --model FOLDER --data_dir LLM_DATA
  python paper_repro/instruct.py --tasks arithmetic --model Qwen/Qwen3-0.6B --seeds 0,1,2
  python paper_repro/instruct.py --preset paper --tasks commonsense --plan       LLaMA-7B, DoRA's Table 1
"""
    tasks: Mapping[str, InstructTask] = TASKS
    settings = InstructSettings
    statistic = "mean"
    average = False
    data_flags = FLAGS

    presets = ("auto", "embedded", "paper", "paper-dagger", "official", "llm-adapters", "default")
    auto_class = "AutoModelForCausalLM"
    hub_model = "huggyllama/llama-7b"
    model_title = "LLaMA-7B"
    family = "LLaMA"
    embedded_model = "embedded-llama"
    embedded_note = "a small LLaMA and generated instructions that ship with the project, no language model of use"
    paper_note = "DoRA's recipe (its Table 1)"
    data_env = "LLM_DATA_DIR"
    data_help = "folder with a folder for each set (boolq, piqa, ..., gsm8k, ...), each with train and test files"

    reading = """\
A cell is the mean over the seeds ± their standard deviation (n-1) of the share of right answers on the test rows, times
100, with the weights of the epoch that the row's note names (`score_epoch`): the one of least perplexity on dev rows,
or the last. Answers are decoded greedily, or by as many `beams` as the row's note says; *choice* compares the
probabilities of the options instead, and generates nothing. The two differ: a model may know the option and not say it
in the form that is read. Perplexity is that of the responses' tokens on dev rows. Rows marked *published* are the
papers' own figures on the model that they name: beside ours, not comparable unless model, training rows and prompts
agree."""
    scored_on = "test"

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Of all tasks: see `columns_of`."""
        return tuple(column for task in self.tasks.values() for column in columns_of(task, len(self.tasks) == 1))

    def seen_in(self, results: Sequence[RunResult]) -> InstructTuning:
        """See `Benchmark.seen_in`: with the tasks that have results, and of a person's own data what was scored."""
        own, names = InstructTuning(), dict.fromkeys(run.task for run in sorted(results, key=lambda run: run.task))
        own.given, own.tasks = self.given, {}
        for name in names:
            runs = [run for run in results if run.task == name]
            known = self.tasks.get(name) or InstructTask(name=name, title=name)
            own.tasks[name] = known if known.parts else replace(known, scores=_scored(runs))
        return own

    @property
    def metric_words(self) -> Mapping[str, str]:
        """What each score is."""
        from modules.benchmarks.instruct.scores import SCORES, scores_named

        scores_named(())
        words = {name: score.words for name, score in SCORES.items()}
        return words | {"neg_perplexity": "perplexity of the responses with its sign turned"}

    def usual_tasks(self, backbone: str) -> Sequence[str]:
        """See `Benchmark.usual_tasks`: the generated skills are for the small LLaMA."""
        if self.given:
            return ()
        return (SKILLS.name,) if backbone == "embedded" else (COMMONSENSE.name, ARITHMETIC.name)

    # ---- own data --------------------------------------------------------------------------------------------

    def on(self, given: Mapping[str, str]) -> InstructTuning:
        """See `Benchmark.on`; nothing is read yet."""
        if not given:
            return self
        wanted, own = Description.of(given), InstructTuning()
        own.given = dict(given)
        own.tasks = {wanted.task: InstructTask(name=wanted.task, title=wanted.title)}
        return own

    def labelled(self, task: Task, source: Source, training: Mapping[str, Any]) -> Task:
        """See `Benchmark.labelled`: with the scores that the settings name."""
        from modules.benchmarks.instruct.scores import scores_named

        scores_named(_words(training.get("scores")))  # or says which is unknown
        return task

    # ---- sources ---------------------------------------------------------------------------------------------

    def embedded(self) -> tuple[str, Path]:
        """Name and folder of the small LLaMA."""
        from modules.embedded import LLAMA

        return self.embedded_model, LLAMA

    def source(self, backbone: str, data_dir: str | None) -> Source:
        """See `Benchmark.source`; a person's own data serve any backbone."""
        return self.open_source("own", self.given) if self.given else super().source(backbone, data_dir)

    def open_source(self, kind: str, spec: Any) -> Source:
        """The generator ("embedded"), a folder (`spec`), the Hub ("hub"), or what flags describe (a mapping)."""
        from modules.benchmarks.instruct.sources import EmbeddedSource, FolderSource, HubSource, OwnSource

        if isinstance(spec, Mapping):
            return OwnSource(spec)
        return {"embedded": EmbeddedSource, "hub": HubSource}[kind]() if kind != "folder" else FolderSource(spec)

    # ---- a run -----------------------------------------------------------------------------------------------

    def prepare(self, config: RunConfig) -> Prepared:
        """Read and tokenise the rows, load the model: see `Benchmark.prepare`."""
        from modules.backbones.loading import load_language_model
        from modules.benchmarks.causal.targets import CausalDataModule
        from modules.benchmarks.instruct.data import tokens_in
        from modules.benchmarks.instruct.objective import Instruction
        from modules.benchmarks.instruct.rows.chat import prepare, prompt_ids
        from modules.benchmarks.instruct.scores import scores_named
        from modules.benchmarks.instruct.scores.scoring import Answers
        from modules.benchmarks.instruct.sources import examples_in

        settings = self.settings.of(config.training)
        source = self.open_source(config.data["source"], config.data["spec"])
        task = self._task(config, source)
        splits = source.expect(task, config.data["hash"])
        model, tokenizer, backbone = load_language_model(
            config.backbone["spec"], self.embedded(), dropout=settings.model_dropout
        )
        notes = [_with_tokens(model, tokenizer, settings.train_embeddings), prepare(tokenizer, settings.template)]
        max_length = min(settings.max_length, backbone.max_length or settings.max_length)
        examples = {name: examples_in(split) for name, split in splits.items()}
        tokens = {}
        for name in ("train", "validation"):
            known = tokenizer, max_length, settings.loss_on, source.hash(task)
            tokens[name], note = tokens_in(examples[name], name, *known)
            notes.append(note)
        for note in filter(None, notes):
            print(note, flush=True)
        data = CausalDataModule(
            tokens,
            task.eval_splits,
            tokenizer.pad_token_id,
            **batch_sizes(settings.batch_size, config.trainer),
            seed=config.seed,
            pad=settings.pad,
            max_length=max_length,
        )
        scores = scores_named(_words(settings.scores) or task.scores)
        test = examples.get("test", examples["validation"]) if scores else []
        answers = None
        for score in scores:
            score.check(test)
        if scores:
            how = settings.max_new_tokens, settings.decode_batch_size, max_length, settings.beams
            answers = Answers(tuple(scores), tokenizer, *how)
            longest = max(len(prompt_ids(example, tokenizer)) for example in test)
            if backbone.max_length and longest + settings.max_new_tokens > backbone.max_length:
                raise UserError(
                    f"an instruction of {longest} tokens and an answer of {settings.max_new_tokens} do not fit the "
                    f"{backbone.max_length} positions of {backbone.name}; lower --max_new_tokens"
                )
        objective = Instruction(test, answers, settings.score_epoch)
        return Prepared(data, model, objective, source.sizes[task.name], source.notes[task.name])

    def _task(self, config: RunConfig, source: Source) -> InstructTask:
        if config.task in self.tasks:
            return self.tasks[config.task]
        own = self.on(config.data["spec"])  # a run of a person's own data, in another process
        return own.tasks[config.task]

    def inputs(self, config: RunConfig) -> dict[str, Any]:
        """See `Benchmark.inputs`: with the prompt's form, and how answers are made."""
        settings = self.settings.of(config.training)
        known = {"template": settings.template, "max_new_tokens": settings.max_new_tokens}
        return {"fields": ["instruction"], "max_length": settings.max_length, "padding_side": "left"} | known

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[tuple[str, ...]],
        inputs: Mapping[str, Any],
        done: Callable[[int], object],
    ) -> list[dict[str, Any]]:
        """See `Benchmark.predict`: an answer to each instruction."""
        from modules.benchmarks.instruct.answering import answer

        return answer(model, tokenizer, [text for (text,) in rows], inputs, done)

    def scored_rows(self, sizes: Mapping[str, int]) -> int:
        """Rows of the test set; without one those of the dev set."""
        return sizes.get("test", sizes["validation"])


def _with_tokens(model: Any, tokenizer: Any, tokens: str | None) -> str:
    """Give model and tokenizer the tokens of ``--train_embeddings``; what there is to say of it.

    Raises:
        UserError: the tokenizer knows one already.
    """
    from variants.new_tokens import add_tokens

    if not (words := _words(tokens)):
        return ""
    if known := [word for word in words if word in tokenizer.get_vocab()]:
        raise UserError(
            f"--train_embeddings: the tokenizer knows {', '.join(known)} already, and no row of an old token trains "
            "alone: name new tokens"
        )
    return f"{add_tokens(model, tokenizer, words)} new tokens, whose embeddings train"


def columns_of(task: InstructTask, alone: bool) -> list[Column]:
    """A column for each scored part of a task by its first score, their mean, the other scores' means, perplexity.

    Args:
        task: one without parts has a column for each score.
        alone: it is the table's only one.
    """
    before = "" if alone else f"{task.title}: "
    found: list[Column] = []
    if parts := [part for part in task.parts if part.scored]:
        first, *others = task.scores
        found += [Column(f"{task.name}_{p.name}", task.name, p.title, f"{p.name}_{first}") for p in parts]
        found.append(Column(f"{task.name}_average", task.name, f"{before}mean", f"average_{first}"))
        found += [Column(f"{task.name}_{s}", task.name, f"{before}mean, {s}", f"average_{s}") for s in others]
    else:
        found += [Column(f"{task.name}_{score}", task.name, f"{before}{score}", score) for score in task.scores]
    return [*found, Column(f"{task.name}_perplexity", task.name, f"{before}perplexity", scale=-1.0, digits=3)]


def _scored(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """The scores that runs have figures of."""
    from modules.benchmarks.instruct.scores import SCORES, scores_named

    scores_named(())
    figures = {name for run in runs for name in run.test or {}}
    ordered = dict.fromkeys((*SCORES, *sorted(figures)))
    return tuple(name for name in ordered if name in figures and name not in ABOUT)


ABOUT = ("epoch", "decode_s")
"""Figures of a test that are no scores."""


def _words(scores: str | None) -> list[str]:
    return [word.strip() for word in (scores or "").split(",") if word.strip()]


INSTRUCT = InstructTuning()
