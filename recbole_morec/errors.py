"""Errors meant for a person: what was wrong, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class MoRecError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback."""


class ConfigError(MoRecError):
    """One or more problems with the settings, all reported at once.

    Args:
        problems: one sentence per problem, each naming its key or file and the cure.
    """

    def __init__(self, problems: Sequence[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            message = self.problems[0]
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            message = f"{len(self.problems)} problems with the settings:\n{lines}"
        super().__init__(message)


class DataError(MoRecError):
    """A dataset file, field or item that cannot be used as it is."""


class CheckpointError(MoRecError):
    """A run folder or checkpoint that is absent, incomplete or does not fit the model."""


def short(text: str, most: int = 60) -> str:
    """Return a text as it is, or its beginning and how long it is, for messages."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def refused(error: OSError, place: object) -> str:
    """Return which file the system refused, and why; ``place`` where the error names none."""
    # numpy writes no error number when a disk is full: "180000 requested and 51200 written".
    return f"{error.filename or place}: {error.strerror or f'{error}; is the disk full?'}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return ``"1 item"``, ``"2 items"``; ``many`` where it is not ``one`` and an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def unknown(key: str, value: object, options: Iterable[str], what: str = "value") -> str:
    """Say that ``value`` is none of the options of a setting or flag."""
    return (
        f'{key}: unknown {what} "{value}".{suggest(str(value), options)} Use one of '
        f"{', '.join(options)}."
    )


def suggest(word: str, options: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the closest option, or an empty string."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f' Did you mean "{by_lower[close[0]]}"?' if close else ""
