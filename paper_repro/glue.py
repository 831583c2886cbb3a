"""GLUE, end to end: trains and scores a variant, and shows the papers' rows beside it.

    python paper_repro/glue.py --variant lora --r 8

``--help`` lists every flag; ``--variant dora --help`` those of another variant.
"""

import sys

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], GLUE))
