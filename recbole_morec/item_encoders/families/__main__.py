"""``python -m recbole_morec.item_encoders.families``: try all families and write the table."""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from recbole_morec.item_encoders.families.find import find_timm, find_transformers
from recbole_morec.item_encoders.families.table import markdown, read_json, write_json
from recbole_morec.item_encoders.families.trial import write_tokenizer


def main() -> None:
    """Parse the arguments, try the families, write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True, help="the Markdown page")
    parser.add_argument("--table", type=Path, default=Path("tests/encoder_families.json"))
    parser.add_argument(
        "--keep", action="store_true", help="write the page from the table, without trying"
    )
    arguments = parser.parse_args()
    known = read_json(arguments.table)[1] if arguments.table.exists() else []
    members = known
    if not arguments.keep:
        import transformers

        transformers.logging.set_verbosity_error()
        logging.disable(logging.WARNING)
        warnings.filterwarnings("ignore")
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder))
            names = {m.family: m.name for m in known if m.library == "timm"}
            found = chain(find_timm(names, Path(folder)), find_transformers(Path(folder)))
            members = list(tqdm(found, unit="family"))
        write_json(arguments.table, members)
    arguments.write.parent.mkdir(parents=True, exist_ok=True)
    arguments.write.write_text(markdown(members), encoding="utf-8")


if __name__ == "__main__":
    main()
