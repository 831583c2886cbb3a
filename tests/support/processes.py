"""Code in a process of its own that knows no Hub but the one that the test serves."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, endpoint: str, home: Path) -> list[str]:
    """Runs `code` in a new process that knows no Hub but `endpoint` -> the lines it prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "LORA_VARIANTS_CACHE": str(home / "ours")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()


PRELUDE = """
import json, time
from modules.backbones.loading import load_backbone
from variants.errors import UserError
from modules.hub import hub_cached, hub_reachable
from modules.benchmarks.glue.sources import GLUE_REPO, HubSource
from modules.benchmarks.glue.tasks import TASKS

def attempt(action, *arguments):
    start = time.monotonic()
    try:
        action(*arguments)
        print("no error")
    except UserError as error:
        print(json.dumps([str(error), time.monotonic() - start]))
"""
