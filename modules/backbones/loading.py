"""The pretrained model a run adapts: from the Hub, from a local folder, or the small one that ships with the project.

All three end in a local folder in the Hub's format, so there is one way to load, check and hash. Weights are read from
safetensors only: a pickle can run code.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modules.backbones.diffusion.folder import HUB_LEFT_OUT, is_pipeline, shapes
from modules.backbones.heads import in_head, init_head
from modules.backbones.model_config import check_memory, read_config
from modules.backbones.weights import _weight_files, weights_hash
from modules.embedded import FOLDERS, ROBERTA, is_embedded
from modules.hub import from_hub, hub_cached
from variants.errors import UserError, first_line

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model")
_HUB_FILES = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *_TOKENIZER_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
]


@dataclass(frozen=True)
class Backbone:
    """What a result file says about the model: where it is from, its name, and the hash of its weights."""

    name: str
    kind: str  # "embedded", "hub" or "folder"
    hash: str  # SHA-256 of the weight files' content
    max_length: int | None = None  # the most tokens it has positions for


class Outputs(Protocol):
    """What a task asks of a classification head, in transformers' words."""

    @property
    def num_labels(self) -> int:
        """Numbers per row."""

    @property
    def problem_type(self) -> str:
        """ "regression", "single_label_classification" or "multi_label_classification"."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers; none where they have no names."""


Loaded = tuple["PreTrainedModel", "PreTrainedTokenizerBase", Backbone]  # noqa: F821


def load_backbone(
    spec: str | os.PathLike,
    task: Outputs,
    seed: int = 0,
    dtype: str = "float32",
    embedded: tuple[str, Path] | None = None,
    **config,
) -> Loaded:
    """Loads a model for sequence classification, with a fresh head, and its tokenizer.

    Args:
        spec: "embedded", a folder, or a Hub id such as "FacebookAI/roberta-base".
        task: gives the head its size and its kind (classes or a score).
        seed: decides the head's initial values, alone: the state of the global generators is neither used nor changed.
        dtype: of all weights ("float32", "bfloat16", "float16").
        embedded: name and folder of what "embedded" stands for; by default the small RoBERTa.
        config: overrides of the model's config, for example `hidden_dropout_prob=0.0`.

    Raises:
        UserError: no such model, files missing, or weights that lack a part of the backbone.
    """
    config |= {"num_labels": task.num_labels, "problem_type": task.problem_type}
    if task.labels:
        names = dict(enumerate(task.labels))
        config |= {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    model, tokenizer, backbone = _load("AutoModelForSequenceClassification", resolve(spec, embedded), dtype, config)
    init_head(model, seed)
    return model, tokenizer, backbone


def load_language_model(
    spec: str | os.PathLike,
    embedded: tuple[str, Path],
    dtype: str = "float32",
    dropout: float | None = None,
    **config,
) -> Loaded:
    """Loads a causal language model, its output embedding included, and its tokenizer.

    Args:
        embedded: name and folder of what "embedded" stands for.
        dropout: everywhere in the model; None, and a model of a family that is not known, keep what they have.
        spec, dtype, config: as in `load_backbone`, which also says what is raised.
    """
    place = resolve(spec, embedded)
    if dropout is not None:
        config |= dict.fromkeys(_dropout_options(place[2]), dropout)
    return _load("AutoModelForCausalLM", place, dtype, config)


def _dropout_options(folder: Path) -> tuple[str, ...]:
    """What the model's configuration calls its rates of dropout; empty where that is not known."""
    from variants.sites.architectures import family_of

    try:
        return family_of(read_config(folder).get("model_type", "")).dropout
    except UserError:
        return ()  # `_load` says what is wrong with the folder


def _load(auto_class: str, place: tuple[str, str, Path], dtype: str, config: dict) -> Loaded:
    name, kind, folder = place
    _check_files(folder, name)
    import torch
    import transformers

    with _quiet(), torch.random.fork_rng(devices=[]), _told(f"model {name!r} cannot be loaded"):
        check_memory(_shapes, folder, auto_class, _weight_files(folder))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, report = getattr(transformers, auto_class).from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # a head for another number of classes: checked below
            output_loading_info=True,
            trust_remote_code=False,
            **config,
        )
    _check_weights(model, report, name, whole=auto_class == "AutoModelForCausalLM")
    _check_tokenizer(model, tokenizer, name)
    return model, tokenizer, Backbone(name, kind, weights_hash(folder), _positions(model.config))


def expect_weights(folder: Path, spec: str, wanted: str) -> None:
    """Raise UserError where the weights in ``folder``, named ``spec``, have another hash than a run started from."""
    if weights_hash(folder) != wanted:
        raise UserError(
            f"the weights of {spec} are not those that the run started from; name those: --model, or model="
        )


def shapes_only(folder: Path, auto_class: str):
    """The model of a folder without weights, on the meta device; `auto_class` is transformers' name of its kind."""
    with _quiet(), _told(f"the model in {folder} cannot be built"):
        return shapes(folder) if is_pipeline(folder) else _shapes(folder, auto_class)


def _shapes(folder: Path, auto_class: str):
    import torch
    import transformers

    read_config(folder)
    with torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return getattr(transformers, auto_class).from_config(config, trust_remote_code=False)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever transformers and its libraries raise, as one line that begins with `what`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except BaseException as error:  # they raise a dozen kinds; the tokenizers' panics are no `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what}: {first_line(error)}") from error


def resolve(
    spec: str | os.PathLike, embedded: tuple[str, Path] | None = None, files: Sequence[str] = ()
) -> tuple[str, str, Path]:
    """-> (name, kind, local folder); downloads a Hub model into the Hub's own cache first.

    Args:
        embedded: name and folder of what "embedded" stands for; by default the small RoBERTa.
        files: patterns of what is fetched from the Hub; by default a model and its tokenizer as transformers have them.

    Raises:
        UserError: it is neither a folder nor a Hub id, or cannot be downloaded.
    """
    if spec == "embedded":
        name, folder = embedded or (f"embedded-{ROBERTA.name}", ROBERTA)
        return name, "embedded", folder
    if is_embedded(spec):
        return str(spec), "embedded", FOLDERS[str(spec)]
    folder = Path(spec).expanduser()
    if folder.is_dir() and str(spec):
        path = folder.resolve()
        return f"{path.parent.name}/model" if path.name == "model" else path.name, "folder", folder
    spec = str(spec)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", spec) or folder.exists():
        raise UserError(f"model {spec!r} is neither a folder nor a Hub id; name an existing folder, or owner/model")
    return spec, "hub", _download(spec, files or _HUB_FILES)


def _download(repo: str, files: Sequence[str]) -> Path:
    """The local snapshot of some files of a Hub repository."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def download() -> Path:
        return Path(
            snapshot_download(
                repo,
                allow_patterns=list(files),
                ignore_patterns=list(HUB_LEFT_OUT),
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )

    try:
        return from_hub(f"model {repo!r}", repo, hub_cached(model=repo), download)
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(f"model {repo!r} asks for a licence: accept it on its page, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"model {repo!r} is not a local folder, and the Hub has no such model") from None
    except Exception as error:  # the network, the disk, the cache: the person needs one line
        raise UserError(f"model {repo!r} cannot be downloaded: {first_line(error)}") from error


def _check_files(folder: Path, name: str) -> None:
    """Names what a model folder lacks, before transformers guesses at it."""
    where = f"model {name!r} (folder {folder})"
    if not (folder / "config.json").is_file():
        raise UserError(f"{where} has no config.json; name a model that `save_pretrained` wrote")
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(f"{where} has no tokenizer; `tokenizer.save_pretrained` it there")
    files = _weight_files(folder)
    if not files and any(folder.glob("*.bin")):
        raise UserError(
            f"{where} has only pickled weights (*.bin), which can run code; convert them to model.safetensors once "
            "with transformers' `save_pretrained`"
        )
    if not files:
        raise UserError(f"{where} has no weights; put its model.safetensors there")
    for file in files:
        if not file.is_file():
            raise UserError(f"{where} lacks the weight file {file.name}; download it again")


def _check_weights(model, report: dict, name: str, whole: bool = False) -> None:
    """No tensor of the backbone (of the `whole` model) may be left at random: a run on it would look like a result.

    What heads read of the backbone (BERT's pooler) may be lacking: it is noted, and counts as head.
    """
    from variants.sites.architectures import remember_lacked

    if model.base_model is model:
        raise UserError(f"model {name!r}: {type(model).__name__} does not tell its backbone from its head")
    lacked = [*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])]
    if lost := [key for key in lacked if whole or not in_head(model, key)]:
        raise UserError(
            f"model {name!r}: the weights lack {len(lost)} tensors of the backbone or have them in another shape, "
            f"for example {min(lost)}; the files do not belong together, or it is no {model.config.model_type} model"
        )
    remember_lacked(model, lacked)


def _check_tokenizer(model, tokenizer, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(f"model {name!r}: its tokenizer has {len(tokenizer)} entries, its embedding only {rows}")
    if tokenizer.pad_token is None:  # GPT-2
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _positions(config) -> int | None:
    from variants.sites.architectures import family_of

    positions = getattr(config, "max_position_embeddings", None)
    return positions - family_of(config.model_type).first_position(config) if positions else None


def _quiet():
    from variants.base_model import quiet

    return quiet()
