"""Builds the image store of a dataset; see :mod:`recbole_morec.data.content.image_store`.

The images are taken in the order in which the source gives them, encoded by several threads, and
written in that order in segments, so that the bytes of a store depend on the images and the
choices, never on the number of threads. A segment appears under its name only when it is whole, and
carries in itself what it was made from: a build that was killed is started again and takes over
all segments that fit what it would have made itself. The manifest, without which there is no
store, comes last.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from recbole_morec.convert._encode_image import Encoded, Encoding, encode_image
from recbole_morec.convert._image_sources import ImageSource, Payload, Unreadable
from recbole_morec.convert._store_files import (
    clear,
    foreign_files,
    only_builder,
    read_segment,
    segment_path,
    write_index,
    write_segment,
    write_whole,
)
from recbole_morec.data.content.decoding import BadImageError
from recbole_morec.data.content.image_store import (
    FORMAT,
    INDEX,
    MANIFEST,
    VERSION,
    manifest_sha256,
)
from recbole_morec.data.content.images import usable_cpus
from recbole_morec.errors import ConfigError, DataError, unknown

ON_BAD = ("leave_out", "error")
SEGMENT_IMAGES = 4096  # a kill costs the work on one segment at most
SEGMENT_BYTES = 128 * 2**20

_SHOWN = 5


@dataclass(frozen=True)
class StoreSummary:
    """What a store holds.

    Attributes:
        images: stored images.
        bytes: size of the store's files.
        raw_bytes: what its images would take as uint8 RGB at their stored size.
        kept: images stored with the very bytes of the source; the others were encoded.
        quarantine: what was left out: ``{"item": ..., "file": ..., "reason": ...}``.
        taken_over: images that an earlier, unfinished build had stored already.
    """

    images: int
    bytes: int
    raw_bytes: int
    kept: int
    quarantine: list[dict[str, str]] = field(repr=False)
    taken_over: int = 0

    def __str__(self) -> str:
        share = f", {self.bytes / self.raw_bytes:.1%} of raw uint8" if self.raw_bytes else ""
        return (
            f"{self.images:,} images in {self.bytes / 2**20:,.1f} MiB{share}; {self.kept:,} kept "
            f"as they were, {self.images - self.kept:,} encoded, {len(self.quarantine):,} left out"
        )


class _Task(NamedTuple):
    """One image to store, and the items whose image it is."""

    name: str
    items: tuple[str, ...]
    fingerprint: str


def build_image_store(
    source: ImageSource,
    wanted: Mapping[str, str],
    folder: str | Path,
    *,
    encoding: str = "jpeg",
    size: int | None = 256,
    resize: str = "shorter",
    quality: int = 90,
    on_bad: str = "leave_out",
    workers: int | None = None,
    progress: bool = False,
    segment_images: int = SEGMENT_IMAGES,
    segment_bytes: int = SEGMENT_BYTES,
) -> StoreSummary:
    """Build the image store of a dataset, or finish one that was interrupted.

    Args:
        source: where the images are, from
            :func:`~recbole_morec.convert._image_sources.open_images`.
        wanted: item token -> name of its image in the source. Items may share an image; each gets
            a record of its own.
        folder: of the store (``images/`` of the dataset's folder); created. It may hold what an
            earlier build left there and nothing else.
        encoding, size, resize, quality: see :class:`~recbole_morec.convert._encode_image.Encoding`.
        on_bad: what becomes of images that cannot be used: ``leave_out`` lists them in the
            manifest; ``error`` raises once all were looked at, and leaves no whole store.
        workers: threads that decode and encode; default one per usable processor.
        progress: show a progress bar.
        segment_images, segment_bytes: a segment ends when it has as many images or bytes.

    Returns:
        What the store holds.

    Raises:
        ConfigError: an unknown choice.
        DataError: the folder holds other files or another process builds there; the source is
            damaged; the disk is full; images are bad and ``on_bad`` is ``error``.
    """
    how = Encoding(encoding, size, resize, quality)
    if on_bad not in ON_BAD:
        raise ConfigError(unknown("on_bad", on_bad, ON_BAD))
    if min(segment_images, segment_bytes, 1 if workers is None else workers) < 1:
        raise ConfigError("workers, segment_images and segment_bytes must be at least 1.")
    options = how.to_dict() | {"segment_images": segment_images, "segment_bytes": segment_bytes}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if foreign := foreign_files(folder):
        raise DataError(
            f"{folder}: the folder of an image store holds nothing else, but here is "
            f'"{foreign[0]}"{f" and {len(foreign) - 1} more" if foreign[1:] else ""}. Choose '
            "another folder, or move these files away."
        )
    tasks = _tasks(source, wanted)
    with only_builder(folder):
        build = _Build(folder, tasks, options)
        build.take_over()
        clear(folder, keep=len(build.segments), finished=build.done == len(tasks))
        build.run(source, how, workers or usable_cpus(), progress)
        return build.finish(on_bad)


class _Build:
    """A store in the making.

    Attributes:
        done: tasks whose segments are written.
        segments: of each written segment, its notes and its entry in the manifest.
    """

    def __init__(self, folder: Path, tasks: Sequence[_Task], options: dict[str, Any]):
        self.folder = folder
        self.tasks = tasks
        self.options = options
        self.done = 0
        self.segments: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.taken_over = 0

    def take_over(self) -> None:
        """Find the segments of an earlier build that are what this one would write."""
        while self.done < len(self.tasks):
            path = segment_path(self.folder, len(self.segments))
            found = read_segment(path) if path.is_file() else None
            if found is None:
                break
            notes, digest = found
            end = self.done + notes["tasks"]
            # A last segment that stopped short of its size would have gone on with these tasks.
            if end > len(self.tasks) or (end < len(self.tasks) and not notes["full"]):
                break
            if notes["inputs"] != self._inputs(self.done, end):
                break
            self._add(notes, path, digest)
            self.done = end
        self.taken_over = sum(notes["images"] for notes, _ in self.segments)

    def run(self, source: ImageSource, how: Encoding, workers: int, progress: bool) -> None:
        """Write the segments that are not there yet."""
        todo = self.tasks[self.done :]
        if not todo:
            return
        there = set(source.names())
        found = source.stream([task.name for task in todo if task.name in there])
        lost = [task.name for task in todo if task.name not in there]
        stream = chain(found, ((name, Unreadable("the source does not have it")) for name in lost))
        records: list[tuple[bytes, bytes]] = []
        notes = _new_notes()
        bar = tqdm(
            total=len(self.tasks), initial=self.done, desc="storing images", unit="image",
            leave=False, disable=None if progress else True,  # None: only on a terminal
        )  # fmt: skip
        with bar:
            results = _in_order(stream, how, workers)
            for at, (task, (name, result)) in enumerate(
                zip(todo, results, strict=True), start=self.done + 1
            ):
                if name != task.name:
                    raise DataError(f"{source.path}: has changed while it was read. Start again.")
                _note(notes, records, task, result)
                notes["full"] = (
                    notes["tasks"] >= self.options["segment_images"]
                    or notes["size"] >= self.options["segment_bytes"]
                )
                if notes["full"] or at == len(self.tasks):
                    self._write(records, notes, at)
                    records, notes = [], _new_notes()
                bar.update()

    def finish(self, on_bad: str) -> StoreSummary:
        """Write the index and the manifest, unless they are there already."""
        quarantine = [bad for notes, _ in self.segments for bad in notes["quarantine"]]
        if quarantine and on_bad == "error":
            raise _bad_images(self.folder, quarantine)
        digest = write_index(self.folder, len(self.segments))
        index = {"file": INDEX, "bytes": (self.folder / INDEX).stat().st_size, "sha256": digest}
        entries = [entry for _, entry in self.segments]
        totals = {
            key: sum(notes[key] for notes, _ in self.segments)
            for key in ("images", "kept", "raw_bytes")
        }
        totals["bytes"] = sum(entry["bytes"] for entry in [*entries, index])
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "options": self.options,
            "inputs": self._inputs(0, len(self.tasks)),
            **totals,
            "segments": entries,
            "index": index,
            "quarantine": quarantine,
        }
        manifest["sha256"] = manifest_sha256(manifest)
        text = (json.dumps(manifest, indent=1) + "\n").encode()
        write_whole(self.folder / MANIFEST, len(text), lambda file: file.write(text))
        return StoreSummary(**totals, quarantine=quarantine, taken_over=self.taken_over)

    def _write(self, records: list[tuple[bytes, bytes]], notes: dict[str, Any], end: int) -> None:
        notes["inputs"] = self._inputs(self.done, end)
        path = segment_path(self.folder, len(self.segments))
        self._add(notes, path, write_segment(path, records, notes))
        self.done = end

    def _add(self, notes: dict[str, Any], path: Path, digest: str) -> None:
        entry = {
            "file": path.name,
            "images": notes["images"],
            "bytes": path.stat().st_size,
            "sha256": digest,
        }
        self.segments.append((notes, entry))

    def _inputs(self, start: int, end: int) -> str:
        """Return a checksum of all that some images' records depend on."""
        digest = hashlib.sha256(json.dumps([VERSION, self.options], sort_keys=True).encode())
        for task in self.tasks[start:end]:
            digest.update(json.dumps(task).encode() + b"\n")
        return digest.hexdigest()


def _tasks(source: ImageSource, wanted: Mapping[str, str]) -> list[_Task]:
    """Return what to store, in the order of the source; what it does not have comes last."""
    items: dict[str, list[str]] = {}
    for item, name in wanted.items():
        try:
            item.encode()
        except UnicodeEncodeError:
            raise DataError(f"the item {item!r} is no Unicode text, so it has no key.") from None
        items.setdefault(name, []).append(item)
    found = [name for name in source.names() if name in items]
    lost = sorted(items.keys() - set(found))
    prints = chain(map(source.fingerprint, found), ["lost"] * len(lost))
    return [
        _Task(name, tuple(sorted(items[name])), mark)
        for name, mark in zip(found + lost, prints, strict=True)
    ]


def _in_order(
    stream: Iterable[tuple[str, Payload]], how: Encoding, workers: int
) -> Iterator[tuple[str, Encoded | Unreadable]]:
    """Encode in threads; a few images are under way at a time, and they come out in order."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        for name, payload in stream:
            pending.append((name, pool.submit(_encode, payload, how)))
            if len(pending) > 2 * workers:
                name, future = pending.popleft()
                yield name, future.result()
        for name, future in pending:
            yield name, future.result()


def _encode(payload: Payload, how: Encoding) -> Encoded | Unreadable:
    if isinstance(payload, Unreadable):
        return payload
    try:
        return encode_image(payload, how)
    except BadImageError as error:
        return Unreadable(str(error))


def _new_notes() -> dict[str, Any]:
    return {"tasks": 0, "images": 0, "size": 0, "kept": 0, "raw_bytes": 0, "quarantine": []}


def _note(
    notes: dict[str, Any],
    records: list[tuple[bytes, bytes]],
    task: _Task,
    result: Encoded | Unreadable,
) -> None:
    notes["tasks"] += 1
    for item in task.items:
        if isinstance(result, Unreadable):
            bad = {"item": item, "file": task.name, "reason": result.reason}
            notes["quarantine"].append(bad)
            continue
        records.append((item.encode(), result.data))
        notes["images"] += 1
        notes["size"] += len(result.data)
        notes["kept"] += result.kept
        notes["raw_bytes"] += result.raw_bytes


def _bad_images(folder: Path, quarantine: Sequence[dict[str, str]]) -> DataError:
    shown = "".join(
        f'\n  item "{bad["item"]}": {bad["file"]}: {bad["reason"]}' for bad in quarantine[:_SHOWN]
    )
    if len(quarantine) > _SHOWN:
        shown += f"\n  ... and {len(quarantine) - _SHOWN} more"
    return DataError(
        f"{folder}: {len(quarantine)} image{'s' if quarantine[1:] else ''} cannot be stored:{shown}"
        '\nReplace these files and run the same again, or choose on_bad "leave_out" to go on '
        "without them; what is finished is kept."
    )
