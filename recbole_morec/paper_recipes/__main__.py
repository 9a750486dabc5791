"""Writes ``properties/paper/*.yaml`` and ``docs/paper.md``.

``python -m recbole_morec.paper_recipes --write properties/paper --page docs/paper.md``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_morec.paper_recipes import all_recipes
from recbole_morec.paper_recipes.page import page

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--write", type=Path, metavar="FOLDER", help="of the settings files")
parser.add_argument("--page", type=Path, metavar="FILE", help="the page of the docs")
options = parser.parse_args()
recipes = all_recipes()
if options.write:
    options.write.mkdir(parents=True, exist_ok=True)
    for stale in set(options.write.glob("*.yaml")) - {
        options.write / f"{r.name}.yaml" for r in recipes
    }:
        stale.unlink()
    for recipe in recipes:
        (options.write / f"{recipe.name}.yaml").write_text(recipe.text(), encoding="utf-8")
if options.page:
    options.page.write_text(page(recipes), encoding="utf-8")
