"""Scripts that rebuild the papers' tables, and the published figures they are compared with.

Each script imports this package first: from here on `modules` and `variants` are the project's, and the scripts' own
folder, which Python has put first on its path, hides no module of another name.
"""

import runpy
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
runpy.run_path(str(_HERE.parent / "variants" / "start.py"), run_name="variants.start")
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == _HERE:
    del sys.path[0]

from modules.paths import PUBLISHED as PUBLISHED  # noqa: E402
