"""E2E NLG as a benchmark: restaurants' meaning representations to text, GPT-2, the challenge's five scores on the test.

`text` reads and writes meaning representations, `sources` the data, `data` makes batches, `objective` is the loss and
the dev curve, `decode` the beam search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.benchmarks.base import Benchmark, Column, Prepared, batch_sizes
from modules.benchmarks.e2e.settings import SEARCH, E2ESettings
from modules.benchmarks.e2e.tasks import TASK, TASKS
from variants.errors import UserError

if TYPE_CHECKING:
    from modules.benchmarks.e2e.sources import E2ESource
    from modules.runs.config import RunConfig


class E2ENLG(Benchmark):
    """See `modules/benchmarks/base.py`."""

    name = "e2e"
    title = "E2E NLG"
    script = "e2e.py"
    description = (
        "Fine-tune a GPT-2 on the E2E NLG challenge with a LoRA variant, decode the test set by beam search, score it, "
        "and show the papers' rows beside it."
    )
    examples = """examples:
  python paper_repro/e2e.py --variant lora --r 4                    what fits this machine
  python paper_repro/e2e.py --variant head                          the frozen model as it is
  python paper_repro/e2e.py --preset paper --seeds 0,1,2            GPT-2 medium on E2E, as the paper
  python paper_repro/e2e.py --preset official --model gpt2-large    the authors' published commands
  python paper_repro/e2e.py --model FOLDER --data_dir E2E_CSVS      your model; CSV files or the authors' text files
  python paper_repro/e2e.py --variant dora --help                   the options of another variant
"""
    tasks = TASKS
    settings = E2ESettings
    columns = (
        Column("bleu", "e2e", "BLEU", "BLEU"),
        Column("nist", "e2e", "NIST", "NIST", scale=1.0, digits=2),
        Column("nist_python", "e2e", "NIST (Python)", "NIST_python", scale=1.0, digits=2, alternative=True),
        Column("meteor", "e2e", "MET", "METEOR"),
        Column("rouge_l", "e2e", "ROUGE-L", "ROUGE_L"),
        Column("cider", "e2e", "CIDEr", "CIDEr", scale=1.0, digits=2),
    )
    statistic = "mean"

    auto_class = "AutoModelForCausalLM"
    hub_model = "openai-community/gpt2-medium"
    model_title = "GPT-2 medium"
    family = "GPT-2"
    embedded_model = "embedded-gpt2"
    embedded_note = "a small GPT-2 and generated restaurants that ship with the project, neither GPT-2 medium nor E2E"
    paper_note = "the paper's recipe (LoRA, Table 11)"
    data_env = "E2E_DIR"
    data_help = "folder of the challenge's CSV files or of the LoRA authors' text files"

    reading = """\
A cell is the mean over the seeds ± their standard deviation (n-1) of a score of the challenge on the
test set: BLEU, METEOR and ROUGE-L times 100, NIST and CIDEr as they are. The outputs are decoded by beam search with
the weights of the epoch that the row's note names (`score_epoch`): the best by greedy BLEU on the dev set, or the last.
An empty cell under MET means that METEOR's Java parts were missing: no other metric stands in for it. Step time is the
median over the row's runs, memory the largest; compare them on one device only. Rows marked *published* are the papers'
own figures on the model they name: beside ours, not comparable unless the model and all of the notes agree."""
    published_scores = (
        "NIST of the rows that the authors of LoRA and VeRA ran is that of the challenge's scorer with -p: compare it "
        "with our NIST (Python); NIST of mteval-v13a gives the same outputs up to 0.3 more."
    )
    scored_on = "test"
    official_rows = {"e2e": (42_061, 630)}
    metric_words = {
        "BLEU": "of mteval-v13a",
        "NIST": "of mteval-v13a",
        "NIST_python": "of the scorer's -p, as the LoRA authors score",
        "METEOR": "1.5",
        "ROUGE_L": "of the COCO caption tools",
        "CIDEr": "of the COCO caption tools",
    }

    def embedded(self) -> tuple[str, Path]:
        """Name and folder of the small GPT-2."""
        from modules.embedded import GPT2

        return self.embedded_model, GPT2

    def open_source(self, kind: str, spec: str | None) -> E2ESource:
        """The generator ("embedded"), a folder (`spec`), or the Hub ("hub")."""
        from modules.benchmarks.e2e.sources import EmbeddedSource, FolderSource, HubSource

        return {"embedded": EmbeddedSource, "hub": HubSource}[kind]() if kind != "folder" else FolderSource(spec)

    def hub_cached(self) -> bool:
        """Whether the papers' backbone and all tasks' data are in the local Hub caches."""
        from modules.benchmarks.e2e.sources import REPO
        from modules.hub import hub_cached

        return hub_cached(self.hub_model, REPO, ["default"])

    def prepare(self, config: RunConfig) -> Prepared:
        """Read and tokenise the rows, load the model: see `Benchmark.prepare`."""
        from modules.backbones.loading import load_language_model
        from modules.benchmarks.causal.decode import Decoding
        from modules.benchmarks.causal.targets import CausalDataModule
        from modules.benchmarks.e2e.data import encode, inputs_of
        from modules.benchmarks.e2e.objective import Generation

        settings = self.settings.of(config.training)
        source = self.open_source(config.data["source"], config.data["spec"])
        splits = source.expect(TASK, config.data["hash"])
        model, tokenizer, backbone = load_language_model(
            config.backbone["spec"], self.embedded(), dropout=settings.model_dropout
        )
        max_length = min(settings.max_length, backbone.max_length or settings.max_length)
        data = CausalDataModule(
            encode(splits, tokenizer, max_length, settings.linearisation, source.hash(TASK)),
            TASK.eval_splits,
            tokenizer.pad_token_id,
            **batch_sizes(settings.batch_size, config.trainer),
            seed=config.seed,
            pad=settings.pad,
            max_length=max_length,
        )
        decoding = Decoding.of(settings, tokenizer)
        groups = {name: inputs_of(splits[name], tokenizer, settings.linearisation) for name in ("validation", "test")}
        longest = max(len(ids) for group in groups.values() for ids in group.ids)
        if backbone.max_length and longest + decoding.max_new_tokens > backbone.max_length:
            raise UserError(
                f"a meaning representation of {longest} tokens and an output of {decoding.max_new_tokens} do not fit "
                f"the {backbone.max_length} positions of {backbone.name}; lower --max_new_tokens"
            )
        objective = Generation(groups, tokenizer, decoding, settings.label_smoothing, settings.score_epoch)
        sizes = source.sizes[TASK.name] | {f"{name}_inputs": len(group.ids) for name, group in groups.items()}
        return Prepared(data, model, objective, sizes)

    def inputs(self, config: RunConfig) -> dict[str, Any]:
        """See `Benchmark.inputs`: how meaning representations are written, and the settings of the search too."""
        settings = self.settings.of(config.training)
        search = {name: getattr(settings, name) for name in ("linearisation", *SEARCH)}
        return super().inputs(config) | {"padding_side": "left"} | search

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[tuple[str, ...]],
        inputs: Mapping[str, Any],
        done: Callable[[int], object],
    ) -> list[dict[str, Any]]:
        """See `Benchmark.predict`: a sentence for each meaning representation, in either of the published forms."""
        from modules.benchmarks.e2e.describe import describe

        return describe(model, tokenizer, [text for (text,) in rows], inputs, done)

    def scored_rows(self, sizes: Mapping[str, int]) -> int:
        """Meaning representations of the test set."""
        return sizes["test_inputs"]


E2E = E2ENLG()
