"""Making a state store: items are encoded, in several processes, and written block by block.

Items lie in blocks of consecutive ids. How many items a block has follows from the size of their
states, once, and is written down in ``store.json``. A block is a file of values and a small
description that is written last and tells which content the values are of and their checksum. So
a store that was interrupted goes on with its missing blocks, several processes each make their own
share, and a block that is damaged or whose content has changed is made again. Blocks are written
and checked piece by piece: nothing larger than a few tiles of items is held in memory. Of several
runs one makes blocks, and the others wait.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from recbole_morec import parallel
from recbole_morec.data.content import ContentReader, UnreadableImagesError
from recbole_morec.data.content.state_files import (
    checksum,
    description_file,
    layout_file,
    read_block_size,
    read_description,
    replacing,
    sweep,
    values_file,
)
from recbole_morec.data.content.state_source import (
    DTYPES,
    Encode,
    StatesError,
    StateSource,
    Tile,
    tiles_of,
)
from recbole_morec.data.content.state_store import StateStore
from recbole_morec.data.held import held
from recbole_morec.errors import DataError, refused

BLOCK = 1024  # the most items of a block
_LEAST = 16  # the fewest, but for the last block
_BLOCK_BYTES = 48 * 2**20
_SHARES = 32  # blocks that a small store has at least, for several processes to share
_TRIAL = 8  # items that tell the size of states, and warm up
_ROOM = 0.05, 256 * 2**20  # kept free for checkpoints: share of the store, and bytes
_POLL_SECONDS = 0.1
_HOLD_SECONDS = 0.5
_DAMAGED, _OTHER_CONTENT = "damaged", "of other content"
_TRIES = 3  # to encode content that changes meanwhile
_log = logging.getLogger(__name__)

_TOLD = DataError, StatesError, UnreadableImagesError  # failures that every process raises alike


def stored_states(
    folder: Path,
    item_num: int,
    content: ContentReader,
    encode: Encode,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    progress: bool = False,
    build: bool = True,
) -> StateStore | None:
    """Open the store at ``folder``, after making the blocks that it lacks.

    All processes of a run call it together; each makes a share of the blocks. If one fails, all
    raise what it raised.

    Args:
        folder: of the store; its name should tell which encoder and transform the states are of.
        item_num: N, padding included; row 0 is empty.
        content: reader of the content that ``encode`` reads.
        encode: content of ``n`` items -> states ``[n, T, D]`` and a mask ``[n, T]`` of the real
            ones, on the right of which padding stands (or ``None``).
        device: where ``encode`` computes.
        dtype: of the stored values: bfloat16, float16 or float32.
        progress: show a progress bar.
        build: False makes no block, and gives ``None`` if any is lacking; all processes agree.

    Raises:
        DataError: the disk is too full for the store or refuses it; a state is not finite, or
            not any more as ``dtype``.
        StatesError: the mask does not fit the states.
        UnreadableImagesError: images are damaged; all are told before any item is encoded.
        RuntimeError: another process failed otherwise.
    """
    notes = parallel.Notes(folder.name)
    try:
        source = StateSource(content, encode, device, dtype)
        plan = _Plan(folder, item_num, source, notes, progress)
        return _make(plan) if build else _open_whole(plan)
    except OSError as error:
        refusal = DataError(f"the encoder's states cannot be stored: {refused(error, folder)}")
        _tell_failure(notes, refusal)
        raise refusal from error
    except Exception as error:
        _tell_failure(notes, error)
        raise


@dataclass(frozen=True)
class _Plan:
    """What is to be made; for the arguments see :func:`stored_states`."""

    folder: Path
    item_num: int
    source: StateSource
    notes: parallel.Notes
    progress: bool

    def look_at_images(self) -> None:
        """Before they are read, or because blocks may be of those that become grey."""
        self.source.content.prepare(self.progress)

    def identity(self, number: int, block: int) -> str:
        """Of the content that the items of a block have now."""
        return self.source.content.identity(self.items(number, block))

    def items(self, number: int, block: int) -> np.ndarray:
        """The items of a block, without padding (id 0, which has no states)."""
        return np.arange(max(1, number * block), min((number + 1) * block, self.item_num))


def _open_whole(plan: _Plan) -> StateStore | None:
    """The store, unless a process finds that a block is lacking."""
    block, unsound = _unsound(plan)
    lacks = block is None or bool(_still_unsound(plan, unsound, block))
    each = _meet(plan.notes, "whole", "lacks some" if lacks else "")
    return None if any(each) else StateStore(plan.folder, plan.item_num)


def _make(plan: _Plan) -> StateStore:
    block, unsound = _unsound(plan)
    if any(_meet(plan.notes, "whole", "" if block and not unsound else "lacks some")):
        plan.folder.mkdir(parents=True, exist_ok=True)
        with _no_other_run(plan):
            _complete(plan, block, unsound)
    return StateStore(plan.folder, plan.item_num)


def _complete(plan: _Plan, block: int | None, unsound: list[int]) -> None:
    """Make what is lacking.

    Args:
        plan: of the store, which no other run makes meanwhile.
        block, unsound: what this process has found before it was alone (:func:`_unsound`).
    """
    sweep(plan.folder)
    if parallel.rank() == 0:
        plan.notes.leave("block", str(_block_size(plan)))
    size = int(_await(plan.notes, "block"))
    unsound = _still_unsound(plan, unsound if size == block else _own(plan, size), size)
    each = _meet(plan.notes, "lacking", json.dumps(unsound))
    lacking = sorted(itertools.chain.from_iterable(map(json.loads, each)))
    _make_share(plan, lacking, size)
    # Only now every block is of the content that its items have, and undamaged.
    _meet(plan.notes, "done")


@contextlib.contextmanager
def _no_other_run(plan: _Plan) -> Iterator[None]:
    """Wait until no other run makes blocks of this store; within it none begins to."""
    with contextlib.ExitStack() as stack:
        if parallel.rank() == 0:
            _hold(plan, stack)
            plan.notes.leave("alone", "")
        _await(plan.notes, "alone")
        yield


def _hold(plan: _Plan, stack: contextlib.ExitStack) -> None:
    """Hold the store's lock until ``stack`` is closed."""
    for attempt in itertools.count():
        with contextlib.ExitStack() as trial:
            try:
                free = trial.enter_context(held(plan.folder / "making.lock"))
            except OSError as error:
                _log.info(
                    "%s cannot be locked (%s): other runs may make the same states now",
                    plan.folder, error.strerror,
                )  # fmt: skip
                return
            if free:
                stack.push(trial.pop_all())
                return
        if attempt == 0:
            _log.info("waiting for another run that makes the states in %s", plan.folder)
        _stop_if_failed(plan.notes)
        time.sleep(_HOLD_SECONDS)


def _own(plan: _Plan, block: int) -> list[int]:
    """The blocks that this process looks at."""
    count = math.ceil(plan.item_num / block)
    return list(range(parallel.rank(), count, parallel.world_size()))


def _unsound(plan: _Plan) -> tuple[int | None, list[int]]:
    """Items of a block, where that can be told, and which of this process's are not sound."""
    try:
        block = read_block_size(plan.folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None, []
    return block, list(_faults(plan, _own(plan, block), block))


def _still_unsound(plan: _Plan, unsound: list[int], block: int) -> list[int]:
    """Those of the blocks that are lacking now, and when images which become grey are known."""
    faults = _faults(plan, unsound, block)
    if faults:
        plan.look_at_images()
        faults = _faults(plan, faults, block)
    others = [number for number, fault in faults.items() if fault == _OTHER_CONTENT]
    for number in others:  # perhaps of images that only decoding finds damaged
        for items in tiles_of(plan.items(number, block)):
            plan.source.content.fetch(items)
    faults |= dict.fromkeys(others) | _faults(plan, others, block)
    for number, fault in faults.items():
        if fault == _DAMAGED:
            _log.warning("%s is damaged and not read", values_file(plan.folder, number))
    return [number for number, fault in faults.items() if fault]


def _faults(plan: _Plan, numbers: Iterable[int], block: int) -> dict[int, str | None]:
    """What is wrong with blocks; those that are sound are left out."""
    found = {number: _fault(plan, number, block) for number in numbers}
    return {number: fault for number, fault in found.items() if fault}


def _make_share(plan: _Plan, lacking: list[int], block: int) -> None:
    """Make this process's share of the blocks; the first process says before what all take."""
    share = lacking[parallel.rank() :: parallel.world_size()]
    if not share:
        return
    plan.look_at_images()
    # Before anything is read ahead, so that what changes meanwhile is seen.
    identities = [plan.identity(number, block) for number in share]
    tiles = [tiles_of(plan.items(number, block)) for number in share]
    total = sum(len(plan.items(number, block)) for number in share)
    bar = tqdm(
        total=total, desc="states", unit="item", disable=None if plan.progress else True,
        leave=False,
    )  # fmt: skip
    ahead = plan.source.encoded(itertools.chain.from_iterable(tiles))
    with bar, contextlib.closing(ahead):
        for number, identity, its_tiles in zip(share, identities, tiles, strict=True):
            own = itertools.islice(ahead, len(its_tiles))
            if number == lacking[0]:
                own = _announced(plan, own, lacking, block)
                plan.notes.leave("announced", "")
            _await(plan.notes, "announced")
            if not _write(plan, number, block, identity, _counted(plan.notes, own, bar)):
                _write_again(plan, number, block, its_tiles)


def _write_again(plan: _Plan, number: int, block: int, tiles: list[np.ndarray]) -> None:
    """Encode and write a block whose content changed while it was encoded."""
    for _ in range(_TRIES):
        _log.warning("%s: its items changed meanwhile", values_file(plan.folder, number))
        identity = plan.identity(number, block)
        with contextlib.closing(plan.source.encoded(tiles)) as encoded:
            if _write(plan, number, block, identity, _counted(plan.notes, encoded)):
                return
    raise DataError(
        f"{values_file(plan.folder, number)}: the content of its items keeps changing while it is "
        "encoded. Start when the dataset is complete."
    )


def _counted(
    notes: parallel.Notes, tiles: Iterator[Tile], bar: tqdm | None = None
) -> Iterator[Tile]:
    """The tiles; each moves the bar, and none follows after another process has failed."""
    for values, lengths in tiles:
        _stop_if_failed(notes)
        yield values, lengths
        if bar is not None:
            bar.update(len(lengths))


def _announced(
    plan: _Plan, tiles: Iterator[Tile], lacking: list[int], block: int
) -> Iterator[Tile]:
    """The tiles, after saying what the blocks that all processes lack will take.

    Raises:
        DataError: the disk has no room for them.
    """
    if not plan.source.item_seconds:  # the first ones take longer
        plan.source.tile(plan.items(lacking[0], block)[:_TRIAL])
    first = next(tiles)
    items = sum(len(plan.items(number, block)) for number in lacking)
    total = items * first[0].nbytes / len(first[1])
    seconds = items * plan.source.item_seconds / min(parallel.world_size(), len(lacking))
    _check_room(plan.folder, items, total, lacking)
    _log.info(
        "states of %d items: %.2f GiB, computed once in about %.0f s, into %s",
        items, total / 2**30, seconds, plan.folder,
    )  # fmt: skip
    return itertools.chain([first], tiles)


def _check_room(folder: Path, items: int, total: float, lacking: list[int]) -> None:
    free = shutil.disk_usage(folder).free
    files = [values_file(folder, number) for number in lacking]
    replaced = sum(file.stat().st_size for file in files if file.exists())
    margin = _ROOM[0] * total + _ROOM[1]
    short = total + margin - free - replaced
    if short > 0:
        raise DataError(
            f"{folder}: the encoder's states of {items:,} items take {_gib(total)}, and "
            f"{_gib(free)} are free on this disk, of which {_gib(margin)} are left for "
            f"checkpoints. Free {_gib(short)} more, put the dataset on another disk, choose a "
            "smaller encoder or set store_states: false."
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


# --- blocks -------------------------------------------------------------------------------------


def _block_size(plan: _Plan) -> int:
    """Items of a block, as written down, or chosen by the size of the first items' states."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return read_block_size(plan.folder)
    plan.look_at_images()
    values, lengths = plan.source.tile(np.arange(1, min(1 + _TRIAL, plan.item_num)))
    size = max(1, *lengths) * values.shape[1] * values.itemsize
    block = min(_BLOCK_BYTES // size, math.ceil(plan.item_num / _SHARES))
    block = min(BLOCK, max(_LEAST, block))
    with replacing(layout_file(plan.folder)) as partial:
        partial.write_text(json.dumps({"block": block}), encoding="utf-8")
    return block


def _write(plan: _Plan, number: int, block: int, identity: str, tiles: Iterator[Tile]) -> bool:
    """Write a block of content of this identity; returns whether the content still has it. If not,
    an image broke when it was decoded, or a file was changed, and the block counts as lacking."""
    file, crc32, width = values_file(plan.folder, number), 0, 0
    lengths = [0] if number == 0 else []
    with replacing(file) as partial, partial.open("wb") as out:
        for values, more in tiles:
            out.write(values)
            crc32 = zlib.crc32(values, crc32)
            width = values.shape[1]
            lengths += more
        out.flush()
        os.fsync(out.fileno())
    if plan.identity(number, block) != identity:
        return False
    description = {
        "content": identity,
        "crc32": crc32,
        "dtype": DTYPES[plan.source.dtype],
        "lengths": lengths,
        "width": width,
    }
    with replacing(description_file(plan.folder, number)) as partial:
        partial.write_text(json.dumps(description), encoding="utf-8")
    return True


def _fault(plan: _Plan, number: int, block: int) -> str | None:
    """Why a block cannot be read: it is not there, damaged, or of other content than the items
    have now; ``None`` if nothing is wrong with it."""
    try:
        description = read_description(plan.folder, number)
        if description["dtype"] != DTYPES[plan.source.dtype]:
            return "of another type"
        if description["content"] != plan.identity(number, block):
            return _OTHER_CONTENT  # or of other items: an earlier version's block
        sound = checksum(values_file(plan.folder, number)) == description["crc32"]
        return None if sound else _DAMAGED
    except (OSError, ValueError, KeyError, TypeError):
        return "lacking"


# --- several processes --------------------------------------------------------------------------


def _await(notes: parallel.Notes, key: str) -> str:
    """What a process leaves under ``key``, as soon as it does; nothing collective waits."""
    while (text := notes.read(key)) is None:
        _stop_if_failed(notes)
        time.sleep(_POLL_SECONDS)
    return text


def _meet(notes: parallel.Notes, key: str, text: str = "") -> list[str]:
    """Leave a text and wait until all processes have; returns theirs, in rank order."""
    notes.leave(f"{key} {parallel.rank()}", text)
    return [_await(notes, f"{key} {rank}") for rank in range(parallel.world_size())]


def _tell_failure(notes: parallel.Notes, error: Exception) -> None:
    if parallel.world_size() > 1 and notes.read("failed") is None:
        notes.leave("failed", json.dumps([type(error).__name__, str(error), parallel.rank()]))


def _stop_if_failed(notes: parallel.Notes) -> None:
    """Raise what another process raised."""
    failed = notes.read("failed")
    if failed is None:
        return
    name, text, rank = json.loads(failed)
    for kind in _TOLD:
        if kind.__name__ == name:
            raise kind(text)
    raise RuntimeError(f"process {rank} could not encode its share of the items: {name}: {text}")
