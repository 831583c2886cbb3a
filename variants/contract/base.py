"""Properties of variants by name, and how one says that it does not hold."""

from __future__ import annotations

from collections.abc import Callable

from variants.contract.models import Subject

PROPERTIES: dict[str, Callable[[Subject], str | None]] = {}
"""Every property that one process can check; what holds may come with a suggestion."""


class Broken(Exception):
    """The property does not hold; the message is the reason."""


def require(holds: bool, reason: str) -> None:
    """Raise :class:`Broken` with the reason unless something holds."""
    if not holds:
        raise Broken(reason)


def property_of(name: str) -> Callable[[Callable[[Subject], str | None]], Callable[[Subject], str | None]]:
    """Decorator: a check that raises :class:`Broken` where the property ``name`` does not hold."""

    def decorate(check: Callable[[Subject], str | None]) -> Callable[[Subject], str | None]:
        PROPERTIES[name] = check
        return check

    return decorate
