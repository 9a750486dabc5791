"""One published experiment as a settings file."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recbole_morec.config import PROPERTIES


class Why(NamedTuple):
    """A setting's value and the comment that stands beside it."""

    value: Any
    comment: str


@dataclass(frozen=True)
class Recipe:
    """A published experiment.

    Args:
        name: of its file, without ``.yaml``.
        dataset: name of the converted dataset in its command.
        measured: the metric, on what, and where it is printed; empty without figures.
        figures: what was published, in one or several lines.
        settings: by key; a value may be a :class:`Why`.
        flags: what the command needs beyond the file and the dataset.
    """

    name: str
    dataset: str
    measured: str
    figures: Sequence[str]
    settings: Mapping[str, Any]
    flags: str = ""

    @property
    def command(self) -> str:
        """What runs it, in the root of a clone."""
        parts = [
            "python run_recbole_morec.py --config_files",
            f"properties/paper/{self.name}.yaml --dataset={self.dataset}",
            self.flags,
        ]
        return " ".join(filter(None, parts))

    def values(self) -> dict[str, Any]:
        """The settings without their comments."""
        return {key: _split(value)[0] for key, value in self.settings.items()}

    def text(self) -> str:
        """The settings file."""
        title = f"# Published ({self.measured}):" if self.measured else "# Published:"
        if len(self.figures) > 1:
            published = [title, *(f"#   {line}" for line in self.figures)]
        else:
            published = [f"{title} {self.figures[0]}"]
        groups = [
            [_line(key, *_split(self.settings[key])) for key in group if key in self.settings]
            for group in _groups()
        ]
        first, *rest = filter(None, groups)
        blocks = [[f"# {self.command}", *published, *first], *rest]
        return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def number(value: float) -> str:
    """A number as people write it: ``5e-5``, ``0.1``."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:g}"
    digits, exponent = f"{value:e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _split(value: Any) -> tuple[Any, str]:
    return (value.value, value.comment) if isinstance(value, Why) else (value, "")


def _line(key: str, value: Any, comment: str) -> str:
    line = f"{key}: {_yaml(value)}"
    return f"{line}  # {comment}" if comment else line


def _yaml(value: Any) -> str:
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return f"'{value}'" if value in ("no", "none") or ":" in value else value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value)


@functools.cache
def _groups() -> tuple[tuple[str, ...], ...]:
    """Keys in the order in which a file lists them, as in the files of defaults."""
    of_run = _sections("overall.yaml")
    data, *training = [of_run[name] for name in ("Data and protocol", "Training", "Evaluation")]
    content = of_run["Item content"]
    ours = _sections("multimodal.yaml")
    return (("model", "seed"), data, content, *ours.values(), *training)


def _sections(file: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    title = ""
    for line in (PROPERTIES / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            title = line[2:]
        elif ":" in line and not line.startswith(" "):
            found[title] = (*found.get(title, ()), line.partition(":")[0])
    return found
