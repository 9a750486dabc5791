"""``python -m recbole_morec.item_encoders.families``: try all families and write the table."""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path

import transformers
from tqdm import tqdm

from recbole_morec.item_encoders.families.find import find_timm, find_transformers
from recbole_morec.item_encoders.families.table import (
    LIBRARIES,
    markdown,
    read_json,
    write_json,
)
from recbole_morec.item_encoders.families.trial import Member, write_tokenizer


def try_families(known: list[Member], only: list[str] | None) -> list[Member]:
    """Try all families, or those of ``only``, and return the rows of the new table."""
    chosen: dict[str, list[str]] = {library: [] for library in LIBRARIES}
    for name in only or []:
        library, _, family = name.partition(":")
        chosen[library] += [family] if family else []
    libraries = {name.partition(":")[0] for name in only} if only is not None else set(LIBRARIES)
    found: list[Member] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tokenizer(folder)
        names = {m.family: m.name for m in known if m.library == "timm"}
        if "timm" in libraries:
            found += tqdm(find_timm(names, folder, chosen["timm"]), unit="family")
        if "transformers" in libraries:
            found += tqdm(find_transformers(folder, chosen["transformers"]), unit="family")
    tried = {(m.library, m.family) for m in found}
    tried |= {(library, "") for library in libraries if not chosen[library]}
    kept = [m for m in known if not tried & {(m.library, m.family), (m.library, "")}]
    return sorted([*kept, *found], key=lambda m: (m.library, m.family, m.reads))


def main() -> None:
    """Parse the arguments, try the families, write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True, help="the Markdown page")
    parser.add_argument("--table", type=Path, default=Path("tests/encoder_families.json"))
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="LIBRARY:FAMILY",
        help="try these alone (timm:vgg, transformers:bert, transformers:), keep the other rows",
    )
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    known = read_json(arguments.table)[1] if arguments.table.exists() else []
    members = try_families(known, arguments.only)
    write_json(arguments.table, members)
    arguments.write.parent.mkdir(parents=True, exist_ok=True)
    arguments.write.write_text(markdown(members), encoding="utf-8")


if __name__ == "__main__":
    main()
