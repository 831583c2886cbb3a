"""A class that stands in no file is known by its code, and by that of what it uses."""

import subprocess
import sys

import pytest

CELL = """
from dataclasses import dataclass
from variants import LoRA

SCALE = 1.0

def start(r):
    return [SCALE] * r

class Base(LoRA):
    def begin(self):
        return start(self.r)

@dataclass
class Mine(Base):
    width: int = 3

    @property
    def wide(self):
        return [self.width for _ in range(2)]

UNUSED = 1
"""
CHANGES = {"1.0": "2.0", "[SCALE] * r": "[SCALE] * (r + 1)", "width: int = 3": "width: int = 4", "range(2)": "range(3)",
           "start(self.r)": "start(self.r + 1)", "class Mine(Base)": "class Mine(LoRA)"}  # fmt: skip
PROGRAM = f"""
import sys
from variants.outside.files import code_hash
main, cell, found = sys.modules["__main__"], {CELL!r}, []
for old, new in [("", ""), ("UNUSED = 1", "UNUSED = 2"), *{list(CHANGES.items())!r}]:
    exec(compile(cell.replace(old, new) if old else cell, "<cell>", "exec"), vars(main))
    found.append(code_hash(main.Mine))
print(*found)
"""


def hashes() -> list[str]:
    done = subprocess.run([sys.executable, "-"], input=PROGRAM, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_a_change_of_what_it_uses_makes_another_class_of_it_and_nothing_else_does():
    plain, unused, *changed = hashes()
    assert plain == unused and hashes()[0] == plain  # in another process too
    assert len({plain, *changed}) == 1 + len(CHANGES)
