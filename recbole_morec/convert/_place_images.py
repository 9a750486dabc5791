"""Images of a source -> the dataset's ``images/``: one store, or files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from recbole_morec.convert._image_store_writer import build_image_store
from recbole_morec.convert._images import ImageFiles, place_images, verify_images
from recbole_morec.convert._source import ImageOptions
from recbole_morec.convert.report import Report
from recbole_morec.errors import ConfigError


def put_images(
    files: ImageFiles,
    used: Mapping[str, str],
    folder: Path,
    image: ImageOptions,
    report: Report,
    progress: bool,
) -> dict[str, str]:
    """Put the images of items into a folder; bad ones are left out and listed in the report.

    Args:
        files: the images of the source.
        used: item -> name of its image there.
        folder: becomes ``images/``. A store that an interrupted conversion has begun there is
            finished.
        image: how.
        report: gets counts and bad images.
        progress: show progress bars.

    Returns:
        Item -> value of its image field.

    Raises:
        ConfigError: files are asked for, and the source is an archive.
        DataError: the source is damaged, or the disk is full.
    """
    if image.form == "store":
        return _pack(files, used, folder, image, report, progress)
    if files.images.kind != "folder":
        raise ConfigError(
            f"--image-form {image.form} takes a folder of images, but {files.root} is a "
            f"{files.images.kind}. Use the store, or unpack it."
        )
    reasons = verify_images(files.root, sorted(set(used.values())), progress)
    report.images["bad files"] = len(reasons)
    report.bad_images = [
        {"item": item, "file": file, "reason": reasons[file]}
        for item, file in used.items()
        if file in reasons
    ]
    good = {item: file for item, file in used.items() if file not in reasons}
    wanted = {file: files.root / file for file in sorted(set(good.values()))}
    place_images(wanted, folder, image.form == "link", progress)
    return {item: f"images/{file}" for item, file in good.items()}


def _pack(
    files: ImageFiles,
    used: Mapping[str, str],
    folder: Path,
    image: ImageOptions,
    report: Report,
    progress: bool,
) -> dict[str, str]:
    summary = build_image_store(
        files.images,
        used,
        folder,
        **asdict(image.encoding),
        progress=progress,
    )
    report.images["bad files"] = len({bad["file"] for bad in summary.quarantine})
    report.bad_images = summary.quarantine
    if summary.taken_over:
        report.images["taken over from an unfinished conversion"] = summary.taken_over
    report.detected["image store"] = str(summary)
    bad = {each["item"] for each in summary.quarantine}
    return {item: item for item in used if item not in bad}
