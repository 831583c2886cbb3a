"""What has been found out about a handle once, kept on the handle itself.

In a table elsewhere, even one with weak keys, the values would hold the model's modules until the handle is gone: a
collection of garbage would free the handle, and only the next one the modules, gigabytes of weights.
"""

from __future__ import annotations

from typing import Any

_NAME = "_found"


class _Found(dict):
    """Goes with its handle. A copy of the handle starts with nothing: it would be of the other one's modules."""

    def __reduce__(self) -> tuple:
        return _Found, ()


def found_of(handle: Any) -> dict[str, Any]:
    """What is known of a handle, by name; for the callers to fill."""
    return vars(handle).setdefault(_NAME, _Found())
