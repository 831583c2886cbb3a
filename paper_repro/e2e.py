"""E2E NLG, end to end: trains and scores a variant, and shows the papers' rows beside it.

    python paper_repro/e2e.py --variant lora --r 4

``--help`` lists every flag; ``--variant dora --help`` those of another variant.
"""

import sys

from modules.benchmarks.e2e import E2E
from modules.experiments.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], E2E))
