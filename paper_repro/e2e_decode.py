"""Decode the test set of a finished E2E run again, with other search settings and without training again.

    python paper_repro/e2e_decode.py results/runs/0123456789ab --length_penalty 0.8 --out outputs.txt
    python paper_repro/e2e_decode.py results/runs/0123456789ab --beams 1 --epoch last --json

Settings that are not given are the run's. The scores are printed and the outputs written to --out; the run's result
file stays as it is, since its figures are of its own settings.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from modules.benchmarks.e2e import E2E
from modules.command_line import guarded
from variants.atomic import write_atomic
from variants.errors import UserError

SETTINGS = ("beams", "length_penalty", "no_repeat_ngram", "max_new_tokens", "decode_batch_size")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run, with its adapters")
    for name in SETTINGS:
        setting = E2E.settings.flags()[name]
        parser.add_argument(f"--{name}", type=setting.kind, help=f"{setting.help} (default: the run's)")
    parser.add_argument("--epoch", choices=("best", "last"), help="whose weights (default: the run's score_epoch)")
    parser.add_argument("--data_dir", help="where the run's data are now (default: where they were)")
    parser.add_argument("--model", help="where the run's backbone is now (default: where it was)")
    parser.add_argument("--out", type=Path, help="file for the outputs, one per line")
    parser.add_argument("--json", action="store_true", help="one JSON object, unrounded; null where a score is missing")
    return parser.parse_args()


def main() -> int:
    options = parse()
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    outputs, references, settings = decoded(options.run, given, options.epoch, options.data_dir, options.model)
    from modules.scores import score

    if options.out:
        write_atomic(options.out, "\n".join(outputs) + "\n")
    values, missing = score(outputs, references)
    if options.json:
        print(json.dumps(values | {"inputs": len(outputs), "settings": settings, "missing": missing}))
        return 0
    print(", ".join(f"{name} {value:g}" for name, value in settings.items() if name != "decode_s"))
    for name, value in values.items():
        print(f"{name}: {'' if value is None else f'{value:.4f}'}".rstrip())
    for line in missing.values():
        print(line, file=sys.stderr)
    return 0


def decoded(
    folder: Path, given: dict, epoch: str | None = None, data_dir: str | None = None, model: str | None = None
) -> tuple[list[str], list[list[str]], dict]:
    """(outputs, groups of references, search settings and `decode_s`) of the run in `folder` with the `given` settings.

    Raises UserError where there is no such run, its adapters are gone, or backbone or data are other ones.
    """
    from modules.runs.config import RunConfig

    E2E.settings.check(given, "settings")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.json")
    config = RunConfig.read(str(folder.parent.parent), folder.name)
    if config.benchmark != E2E.name:
        raise UserError(f"{folder} is a run of {config.benchmark}, not of E2E")
    import torch

    from modules.backbones.loading import resolve as place
    from modules.backbones.weights import weights_hash
    from modules.benchmarks.e2e.decode import decode
    from variants.adapters.adapted_model import attach
    from variants.formats.native import restore
    from variants.registry import resolve

    config.training |= given
    config.backbone["spec"] = model or config.backbone["spec"]
    config.data["spec"] = data_dir or config.data["spec"]
    if weights_hash(place(config.backbone["spec"], E2E.embedded())[2]) != config.backbone["hash"]:
        raise UserError(f"the weights of {config.backbone['spec']} are not those that the run started from")
    prepared = E2E.prepare(config)
    adapted = attach(prepared.model, resolve(config.variant)(**config.options), config.seed)
    if adapted.trained():
        which = epoch or prepared.objective.score_epoch
        adapter = folder / ("best" if which == "none" else which)
        if not adapter.is_dir():
            raise UserError(f"{adapter} is not there: the run is not finished, or its adapters were not kept")
        restore(adapted, adapter)
    prepared.model.to("cuda" if torch.cuda.is_available() else "cpu")
    objective, start = prepared.objective, time.perf_counter()
    test = objective.inputs["test"]
    outputs = decode(prepared.model, test.ids, objective.tokenizer, objective.decoding)
    used = {name: value for name in SETTINGS if (value := getattr(objective.decoding, name, None)) is not None}
    return outputs, test.references, used | {"decode_s": round(time.perf_counter() - start, 2)}


if __name__ == "__main__":
    sys.exit(guarded(main))
