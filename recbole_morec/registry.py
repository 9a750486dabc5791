"""Names that a user can type and the classes behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from recbole_morec.errors import ConfigError, suggest

T = TypeVar("T", bound=type)


class Registry:
    """A table from public names to classes.

    Args:
        kind: what is registered, as the error for an unknown name says it ("user encoder").
        key: the setting that names one of them.
    """

    def __init__(self, kind: str, key: str):
        self.kind = kind
        self.key = key
        self._entries: dict[str, type] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator: make the class known as ``name``.

        Raises:
            ValueError: the name is taken.
        """

        def decorate(cls: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def problem(self, name: str) -> str | None:
        """One sentence on why ``name`` cannot be used, or ``None``."""
        if name in self._entries:
            return None
        return (
            f"{self.key}={name!r}: there is no such {self.kind}."
            f"{suggest(str(name), self._entries)} Known: {', '.join(self.names())}."
        )

    def get(self, name: str) -> type:
        """The class called ``name``.

        Raises:
            ConfigError: no such name; the message suggests the closest.
        """
        problem = self.problem(name)
        if problem:
            raise ConfigError(problem)
        return self._entries[name]
