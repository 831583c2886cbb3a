"""What a trained run says of new texts: labels with probabilities, scores or, of an E2E run, sentences.

    python paper_repro/predict.py results/runs/0123456789ab --text "It is raining." --text_pair "It is wet."
    python paper_repro/predict.py results/runs/0123456789ab --file rows.csv --out labelled.csv
    python paper_repro/predict.py results/runs/0123456789ab --text "name[Blue Spice], eatType[pub]"

A file needs a column for each field of the task, by its name: GLUE's RTE has sentence1 and sentence2, E2E has mr.
Where they are called otherwise, --columns names them. Without --out the table is printed, as CSV where it is from a
file.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import sys
from collections.abc import Sequence

from modules.command_line import Parser, guarded, place
from modules.command_line.waiting import waiting
from variants.convert import VARIANT_HELP
from variants.errors import UserError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("run", help="the folder of a run, its id, its result file, or the folder of an adapter")
    add("--text", help="a text")
    add("--text_pair", metavar="TEXT", help="the second text, for a task on pairs")
    add("--file", type=place, help="a table of texts: .csv, .tsv, .jsonl or .parquet")
    add("--columns", metavar="A[,B]", help="the file's columns with the texts (default: the task's fields)")
    add("--out", type=place, help="CSV file for the file's columns and what the run says (default: printed)")
    add("--which", choices=("best", "last"), default="best", help="the epoch whose adapter speaks (default: best)")
    add("--model", help="the run's base model, if it has been moved: a folder or Hub id")
    add("--variant", metavar="FILE:CLASS", help=VARIANT_HELP)
    add("--results_dir", type=place, default="results", help="where an id is looked up (default: results)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = parse(argv)
    if (given.text is None) == (given.file is None):
        raise UserError("give either --text or --file")
    if given.file is not None and given.text_pair is not None:
        raise UserError("--text_pair goes with --text: a file has a column for each of the texts")
    with waiting("starting"):
        from modules.data.table_files import read_table, texts_of
        from modules.inference.predict import rows_of, say
        from modules.inference.trained import trained

        found = trained(given.run, given.which, given.results_dir)
    fields = list(found.inputs["fields"])

    table = None
    if given.file is None:
        rows = rows_of(found, [(given.text,) if given.text_pair is None else (given.text, given.text_pair)])
    else:
        columns = given.columns.split(",") if given.columns else fields
        if len(columns) != len(fields):
            raise UserError(
                f"{found.task} has {len(fields)} texts ({', '.join(fields)}), --columns names {len(columns)}"
            )
        table = read_table(given.file)
        rows = texts_of(table, columns, str(given.file))
    from tqdm import tqdm

    with tqdm(total=len(rows), unit="row", disable=None if table is not None else True, leave=False) as bar:
        said = say(found, rows, given.model, given.variant, bar.update)[lambda frame: frame.columns[len(fields) :]]
    if table is not None:
        import pandas as pd

        said = said.rename(columns={name: f"predicted_{name}" for name in said.columns if name in table.columns})
        said = pd.concat([table, said], axis=1)
    text = said.to_csv(index=False, float_format="%.6g")
    if given.out is not None:
        from variants.atomic import write_atomic

        write_atomic(given.out, text)
        print(f"{given.out}: {len(said)} rows")
    elif table is not None:
        sys.stdout.write(text)
    else:
        print("  ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in said.iloc[0]))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
