"""The published experiments as settings: what ``properties/paper/*.yaml`` is written from.

One module per system holds its tables. Edit these, never the files, and write the files with
``python -m recbole_morec.paper_recipes --write properties/paper --page docs/paper.md``.
"""

from recbole_morec.paper_recipes import morec, ninerec, odmt, pixelrec
from recbole_morec.paper_recipes.recipe import Recipe, Why

__all__ = ["Recipe", "Why", "all_recipes"]


def all_recipes() -> list[Recipe]:
    """Every published experiment, in the order of the papers' tables."""
    return [*pixelrec.recipes(), *ninerec.recipes(), *morec.recipes(), *odmt.recipes()]
