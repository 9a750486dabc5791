"""Which user encoders, objectives and models go together; tests try every pair.

``python -m recbole_morec.models.combinations --write docs/combinations.md``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_morec.models.lookup import find_model, our_models
from recbole_morec.objectives import OBJECTIVES
from recbole_morec.user_encoders import USER_ENCODERS

# (user encoder or model, objective) -> why they do not go together, as the error says it.
REFUSED = {
    ("UserID", "item_head"): "neither reads an item vector",
    ("MF", "item_head"): "neither reads an item vector",
    ("VBPR", "item_head"): "it reads no item vector",
}
# Model -> why it refuses encoders of texts and fusions of several, as the error says it.
ONE_WITH_REGIONS = {"ACF": "reads the regions of one encoder"}

_INTRO = """\
# What goes together

Written by `python -m recbole_morec.models.combinations --write docs/combinations.md`;
`tests/test_combinations.py` tries every cell: a step, an evaluation, saving and loading.

Every item encoder (images, texts, `id`, `features`, `codes`, fusions, with adapters or frozen) goes
with every user encoder and every objective below. `full_softmax`, and `LightGCN` with any
objective, need the vectors of all items in each step: an encoder that trains is refused unless
`catalogue_per_step` allows that many items. What a table refuses is an error before the first step.
"""


def page() -> str:
    """The page as Markdown."""
    choosing = [name for name in our_models() if "objective" in find_model(name).chooses]
    fixed = [name for name in our_models() if name not in choosing]
    lines = [_INTRO, "## User encoders and objectives", ""]
    lines += _table("user encoder", USER_ENCODERS.names())
    lines += ["", "## Models and objectives", ""]
    lines += _table("model", choosing)
    lines += ["", "With the user encoder that the model has by default.", ""]
    for name in fixed:
        kept = "user encoder" if "user_encoder" not in find_model(name).chooses else ""
        of_its_own = " and ".join(filter(None, ("objective", kept)))
        lines.append(f"- `{name}` has an {of_its_own} of its own.")
    lines += [
        f"- `{name}` {reason}: no text encoder, no fusion."
        for name, reason in ONE_WITH_REGIONS.items()
    ]
    return "\n".join(lines) + "\n"


def _table(kind: str, rows: list[str]) -> list[str]:
    objectives = OBJECTIVES.names()
    lines = [
        f"| {kind} | " + " | ".join(f"`{name}`" for name in objectives) + " |",
        "| --- " * (1 + len(objectives)) + "|",
    ]
    for row in rows:
        cells = [f"no: {REFUSED[row, o]}" if (row, o) in REFUSED else "yes" for o in objectives]
        lines.append(f"| `{row}` | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True)
    parser.parse_args().write.write_text(page(), encoding="utf-8")
