"""Files that somebody or something has damaged: mutations of bytes, of structure and of tensors.

All are drawn from a `random.Random`: equal seeds give equal files. `tests/support/survey.py` reads them.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import torch
from torch import Tensor

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.5, 1e-320, 1e300, float("inf"), float("nan"), 2**31, 2**63, 10**20, 10**400,
    "", " ", "x", "0", "-1", "1e5", "nan", "null", "é", "\0", "\u2028", "\ud7ff", "a\nb", "~", "../../x", "/dev/zero",
    "/dev/stdin", "auto", "all", "evil.py:X", "evil:X", ":", "__import__('os').system('touch code_ran')", "(a+)+$",
    "x" * 20_000,
    [], [[]], [None], [1, 2, 3], ["x"], [{}], {}, {"": {}}, {"x": 1}, {"x": {"x": {"x": []}}}, {1: 2}, list(range(500)),
)  # fmt: skip
"""What may stand where something else should."""

SPLICES: tuple[bytes, ...] = (
    b"\0", b"\xff", b"\xe9", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\t", b"\x85", b"\x1b[2J", b"'",
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"- ", b"&a [*a]", b"*a", b"<<: *a",
    b"!!python/object/apply:os.system ['touch code_ran']", b"!!binary x", b"!!timestamp 1", b"? ", b"---\n",
    b"%", b"#", b"NaN", b"1e999", b"-", b"9" * 5000, b"[" * 3000, b"{a: " * 3000,
    b'{"a":' * 3000, b"x" * 20_000, b"2001-01-01", b"0x_", b"1:60", b"=", b"null",
)  # fmt: skip
"""Bytes that readers of text trip over."""


def mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    """`data` with one to three places changed: cut, doubled, moved, overwritten, or with a splice put in."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = _bytes_once(data, draw)
    return data


def _bytes_once(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice((1, 2, 8, 64, 1000)))
    kind = draw.randrange(9)
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:end] + data[start:]
    if kind == 3:
        return data[:start] + draw.randbytes(end - start) + data[end:]
    if kind == 4 and data:
        place = start % len(data)
        return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
    if kind == 5:
        return data[end:] + data[:start]
    if kind == 6:
        return draw.choice((b"", b"\n", b"hello", draw.randbytes(200), data.replace(b"\n", b"\r")))
    return data[:start] + draw.choice(SPLICES) + data[start:]


def mutated(value: Any, draw: random.Random) -> Any:
    """A copy of a JSON-like structure with one or two places changed: a value replaced, left out, moved or wrapped, a
    number scaled, a key misspelt."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2))):
        value = _structure_once(value, draw)
    return value


def _structure_once(root: Any, draw: random.Random) -> Any:
    places = list(_places(root))
    if not places:
        return draw.choice(VALUES)
    holder, key = draw.choice(places)
    kind = draw.randrange(9)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [holder[key]]
    elif kind == 2 and isinstance(holder, dict):
        holder[draw.choice((f"{key}x", str(key)[:-1], "", "x", 3, None, "évil"))] = holder.pop(key)
    elif kind == 3:
        other, place = draw.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif kind == 4 and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * draw.choice((-1, 0, 1e6, 1e-6, 10**9)) + draw.choice((0, 0, 0.5, 1))
    elif kind == 5:
        holder[key] = str(holder[key])
    elif kind == 6 and draw.random() < 0.1:
        return draw.choice(VALUES)
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    return root


def _places(value: Any) -> Any:
    """(dictionary or list, key or index) of every value inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def mutated_tensors(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    """A copy of a file's tensors with one to three of them gone, renamed, of another shape or type, or not finite."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    for _ in range(draw.choice((1, 1, 2, 3))):
        if not tensors:
            break
        name = draw.choice(sorted(tensors))
        tensor = tensors[name]
        kind = draw.randrange(9)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            new = (
                f"{name}x",
                name[:-1],
                name.replace(".", "..", 1),
                name.rpartition(".")[2],
                "",
                "é",
                name.upper(),
                "x" * 20_000,
            )
            tensors[draw.choice(new)] = tensors.pop(name)
        elif kind == 2:
            tensors[f"{name}.more"] = tensor.clone()
        elif kind == 3:
            tensors[name] = draw.choice(
                (tensor.flatten(), tensor.mT if tensor.ndim > 1 else tensor[None], tensor[None])
            )
        elif kind == 4 and tensor.ndim:
            tensors[name] = draw.choice((tensor[:0], tensor[:1], tensor.new_zeros(()), torch.cat([tensor, tensor])))
        elif kind == 5:
            types = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
            tensors[name] = tensor.to(draw.choice(types))
        elif kind == 6:
            tensors[name] = (
                torch.full_like(tensor, draw.choice((torch.nan, torch.inf, 1e30)))
                if tensor.is_floating_point()
                else tensor
            )
        elif kind == 7:
            tensors[name] = tensors[draw.choice(sorted(tensors))].clone()
        else:
            tensors[name] = torch.zeros(draw.choice(((1,), (7, 3), (2, 2, 2), (0,), (1, 10_000))))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def json_bytes(value: Any) -> bytes:
    """The text of a JSON file of `value`, whatever `mutated` has put there; keys that are no text are left out."""
    return json.dumps(value, skipkeys=True).encode()


def yaml_bytes(value: Any) -> bytes:
    """The text of a YAML file of `value`."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()
