"""The folder that a conversion writes: whole or absent."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from recbole_morec.data.held import held
from recbole_morec.errors import DataError

REPORT_FILE = "convert_report.json"


_NEW, _OLD = ".converting", ".replaced"
_DERIVED = re.compile(r"prepared/\.?(histories|texts|states)[-./]")
_DESKTOP_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")


def check_output(output: Path, source: Path, overwrite: bool) -> None:
    """Raise a DataError if writing ``output`` could destroy anything that is no old conversion."""
    here, there = output.resolve(), source.resolve()
    if here == there or here in there.parents:
        raise DataError(
            f"{output}: the output folder is or holds the source {source}. Choose another --output."
        )
    check_folder(output)
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise DataError(
            f"{output}: the folder is not empty. Add --overwrite to replace it, or choose another "
            "--output."
        )
    if not (output / REPORT_FILE).is_file():
        raise DataError(
            f"{output}: --overwrite replaces only a folder that a conversion wrote, and this one "
            f"has no {REPORT_FILE}. Delete it yourself, or choose another --output."
        )
    if foreign := _changed_since(output):
        raise DataError(
            f"{output}: --overwrite would delete what was put there or changed since the "
            f"conversion: {shortened(foreign)}. Move it away (settings of your own can be given "
            "with --config_files), or choose another --output."
        )


def fingerprints(
    folder: Path, without: str = "", known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """SHA-256 of every file of a dataset folder but its report; of ``images/`` of the names only.

    Looking at names finds images that were put there, without reading every image again.

    Args:
        folder: the dataset folder.
        without: a subfolder to pass over.
        known: hashes of files that need not be read again.
    """
    found: dict[str, str] = {}
    images = []
    for path in sorted(files_below(folder)):
        name = path.relative_to(folder).as_posix()
        if without and name.startswith(f"{without}/"):
            continue
        if name.startswith("images/"):
            images.append(name)
        elif known is not None and name in known:
            found[name] = known[name]
        elif name != REPORT_FILE:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    if images:
        names = "\n".join(images)
        found["images/"] = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    return found


def _changed_since(output: Path) -> list[str]:
    """What in the folder is not as the conversion left it; a deleted file does not count."""
    try:
        report = json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))
        name, written = report["name"], report.get("files")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(
            f"{output / REPORT_FILE}: is no report of a conversion. Delete the folder yourself, or "
            "choose another --output."
        ) from None
    now = fingerprints(output)
    if written is None:  # an earlier version's report, which tells the names only
        usual = {f"{name}.inter", f"{name}.content", f"{name}.yaml", "images/"}
        return sorted(now.keys() - usual)
    changed = []
    for file, digest in now.items():
        if file not in written:
            changed.append(f"{file} (new)")
        elif written[file] != digest:
            changed.append(file if file != "images/" else "images/ (files added or removed)")
    return changed


def check_folder(output: Path) -> None:
    """Raise a DataError if ``output`` cannot be a folder: it or one above it is a file."""
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise DataError(
                    f"{output}: {path} is a file; --output must name a folder, and all above it "
                    "must be folders. Choose another --output."
                )
            return


def files_below(folder: Path) -> list[Path]:
    """All files of a dataset folder and its subfolders.

    Without what file managers leave there, and without what is derived from the other files, which
    is nobody's work (``prepared/histories``, ``prepared/texts-...``, ``prepared/states-...``).
    """
    return [
        path
        for place, _, names in os.walk(folder)
        for name in names
        if name not in _DESKTOP_FILES
        and not _DERIVED.match((path := Path(place, name)).relative_to(folder).as_posix())
    ]


def shortened(names: Iterable[str], most: int = 5) -> str:
    """The first few names in order, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``output`` that takes its place if all went well."""
    output = output.resolve()  # of a symbolic link, the folder that it names is replaced
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}{_NEW}")
    old = output.with_name(f".{output.name}.{os.getpid()}{_OLD}")
    for abandoned in _left_by_killed(output, _NEW):
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary.mkdir()
    try:
        with held(temporary):
            yield temporary
            if output.exists():
                output.rename(old)
            try:
                temporary.rename(output)
            except OSError:
                if old.exists():
                    old.rename(output)
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists():
            shutil.rmtree(old)


def restore_interrupted(output: Path) -> None:
    """Put a dataset back that a conversion was about to replace when it was killed."""
    output = output.resolve()
    for old in _left_by_killed(output, _OLD):
        if output.exists():
            shutil.rmtree(old, ignore_errors=True)  # the new one had taken its place
        else:
            old.rename(output)


def _left_by_killed(output: Path, ending: str) -> list[Path]:
    """Folders beside ``output`` that conversions left which no longer run."""
    found = []
    for folder in output.parent.glob(f".{glob.escape(output.name)}.*{ending}"):
        process = folder.name.removeprefix(f".{output.name}.").removesuffix(ending)
        worked_in = folder.with_name(f".{output.name}.{process}{_NEW}")
        if process.isdigit() and not _is_held(worked_in):
            found.append(folder)
    return found


def _is_held(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with held(folder) as mine:
        return not mine


def write_settings(
    path: Path,
    *,
    source: Sequence[str],
    user_field: str,
    item_field: str,
    time_field: str,
    text_fields: Sequence[str],
    other_texts: Sequence[str],
    image_field: str | None,
    protocol: str = "pixelrec",
    blank: bool = False,
) -> None:
    """Write the dataset's own yaml: names of fields and the protocol, with comments."""
    lines = [f"# {line}" for line in source]
    fields = {"USER_ID_FIELD": user_field, "ITEM_ID_FIELD": item_field, "TIME_FIELD": time_field}
    lines.append(_yaml(fields))
    lines.append("# For stock RecBole, which loads only the columns that it is told to.")
    lines.append(_yaml({"load_col": {"inter": [user_field, item_field, time_field]}}))
    lines.append("# Leave-one-out, whole histories; see the documentation of protocols.")
    lines.append(_yaml({"protocol": protocol}))
    if text_fields:
        lines.append("# Text fields that are read, in this order.")
        if other_texts:
            lines.append(
                f"# Left out, since they do not describe an item: {', '.join(other_texts)}"
            )
        lines.append(_yaml({"text_fields": list(text_fields)}))
    if image_field is not None:
        lines.append(_yaml({"image_field": image_field}))
    if blank:
        lines.append("# An item without a usable image is read as grey.")
        lines.append(_yaml({"missing_content": "blank"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _yaml(settings: dict) -> str:
    """Write one key per line, with its value in flow style."""
    lines = []
    for key, value in settings.items():
        # Inside a list a scalar gets neither a line of its own nor an end mark.
        listed = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6)
        lines.append(f"{key}: {listed.strip()[1:-1]}")
    return "\n".join(lines)
