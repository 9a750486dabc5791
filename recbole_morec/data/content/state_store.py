"""The state store: what a frozen encoder gives for every item, kept on disk and memory-mapped.

Items lie in blocks of consecutive ids. A block is a file of values and a small description that is
written last and tells which content the values are of and their checksum. So a store that was
interrupted goes on with its missing blocks, several processes each make their own share without
waiting for one another, and a block that is damaged or whose content has changed is made again.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from recbole_morec import parallel
from recbole_morec.data.content import ContentReader
from recbole_morec.errors import DataError

BLOCK = 1024  # items
_TILE = 128  # items that are encoded at once
_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_POLL_SECONDS = 0.5
_log = logging.getLogger(__name__)

Encode = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class _Block:
    """A block of the store: values ``[sum of lengths, D]`` and the length of every item."""

    values: np.ndarray
    ends: np.ndarray


class StateStore:
    """Token states of every item, ``[T_i, D]`` each.

    Args:
        folder: of the store.
        item_num: N, padding included.

    Attributes:
        width: D.
        longest: the most tokens of an item.
    """

    def __init__(self, folder: Path, item_num: int):
        self.folder = folder
        self.item_num = item_num
        blocks = [_read_description(folder, number) for number in range(_block_count(item_num))]
        self.width = blocks[0]["width"]
        lengths = {length for block in blocks for length in block["lengths"]}
        self.longest = max(lengths)
        self._alike = len(lengths - {0}) == 1 and 0 not in blocks[0]["lengths"][1:]
        self._dtype = blocks[0]["dtype"]
        self._blocks = [self._open(number, block) for number, block in enumerate(blocks)]

    def _open(self, number: int, description: dict[str, Any]) -> _Block:
        values = np.memmap(_values_file(self.folder, number), _numpy(self._dtype), "r")
        return _Block(values.reshape(-1, self.width), np.cumsum([0, *description["lengths"]]))

    def __reduce__(self) -> tuple:
        return StateStore, (self.folder, self.item_num)  # a spawned worker maps the files itself

    def fetch(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the states of items, padded on the right to the longest of them.

        Args:
            items: internal ids ``[n]``.

        Returns:
            ``[n, T, D]`` in the store's dtype, zero where padded, and bool ``[n, T]``.
        """
        if self._alike and len(items) and items.min() > 0:
            return self._fetch_alike(items)
        places = [divmod(int(item), BLOCK) for item in items]
        ends = [self._blocks[b].ends[row : row + 2] for b, row in places]
        lengths = np.array([end[1] - end[0] for end in ends], dtype=np.int64)
        width = max(1, int(lengths.max(initial=0)))
        found = np.zeros((len(items), width, self.width), dtype=_numpy(self._dtype))
        for row, ((b, _), (start, stop)) in enumerate(zip(places, ends, strict=True)):
            found[row, : stop - start] = self._blocks[b].values[start:stop]
        return self._tensor(found), torch.from_numpy(np.arange(width) < lengths[:, None])

    def _fetch_alike(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same where all items have equally many states."""
        shape = (len(items), self.longest, self.width)
        found = np.empty(shape, dtype=_numpy(self._dtype))
        block_of, rows = np.divmod(items, BLOCK)
        starts = np.append(np.flatnonzero(np.diff(block_of, prepend=-1)), len(items))
        for start, stop in itertools.pairwise(starts):  # runs of items of one block
            number = block_of[start]
            states = self._blocks[number].values.reshape(-1, *shape[1:])
            places = rows[start:stop] - (number == 0)  # item 0 has none
            # Straight into place: with any mode but this one numpy copies once more.
            np.take(states, places, axis=0, out=found[start:stop], mode="clip")
        return self._tensor(found), torch.ones(shape[:2], dtype=torch.bool)

    def _tensor(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.view(torch.bfloat16) if self._dtype == "bf16" else tensor


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
        DataError: the disk is too full for the store.
        UnreadableImagesError: images are damaged; all are told before any item is encoded.
    """
    mine = range(parallel.rank(), _block_count(item_num), parallel.world_size())
    lacking = [number for number in mine if not _is_sound(folder, number, content, item_num)]
    if lacking and content.prepare(progress):
        # Images that became grey: the blocks may be of these.
        lacking = [number for number in lacking if not _is_sound(folder, number, content, item_num)]
    if not build:
        lacks = any(parallel.gather_objects(bool(lacking)))
        return None if lacks else StateStore(folder, item_num)
    folder.mkdir(parents=True, exist_ok=True)
    announce = _Announcement(folder, sum(len(_items(n, item_num)) for n in lacking))
    for number in tqdm(
        lacking, "states", unit="block", disable=None if progress else True, leave=False
    ):
        items = _items(number, item_num)
        values, lengths = _encode_block(items, content, encode, device, dtype, announce)
        _write(folder, number, values, lengths, content.identity(items), _DTYPES[dtype])
    while not all(_description_file(folder, n).exists() for n in range(_block_count(item_num))):
        time.sleep(_POLL_SECONDS)  # other processes are at theirs; nothing collective waits
    return StateStore(folder, item_num)


def _block_count(item_num: int) -> int:
    return math.ceil(item_num / BLOCK)


def _items(number: int, item_num: int) -> np.ndarray:
    """The items of a block, without padding (id 0, which has no states)."""
    return np.arange(max(1, number * BLOCK), min((number + 1) * BLOCK, item_num))


@torch.no_grad()
def _encode_block(
    items: np.ndarray,
    content: ContentReader,
    encode: Encode,
    device: torch.device,
    dtype: torch.dtype,
    announce: _Announcement,
) -> tuple[np.ndarray, list[int]]:
    """Values ``[sum of lengths, D]`` of a block and the length of each of its rows."""
    rows: list[Tensor] = []
    lengths = [0] if len(items) and items[0] == 1 else []
    for start in range(0, len(items), _TILE):
        fetched = content.fetch(items[start : start + _TILE])
        states, mask = encode({key: value.to(device) for key, value in fetched.items()})
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        rows.append(states[mask].to(dtype).cpu())
        lengths += mask.sum(1).tolist()
        announce.first(len(states), rows[-1].nbytes)
    values = torch.cat(rows)
    if dtype == torch.bfloat16:
        values = values.view(torch.int16)
    return values.numpy().view(_numpy(_DTYPES[dtype])), lengths


class _Announcement:
    """Says once, after the first tile, what the store will take.

    Args:
        folder: of the store.
        items: number of items that are to be encoded.
    """

    def __init__(self, folder: Path, items: int):
        self._folder = folder
        self._items = items
        self._started = time.perf_counter()
        self._said = False

    def first(self, encoded: int, size: int) -> None:
        """Take the number of items of a tile and their bytes.

        Raises:
            DataError: the disk has no room for the rest.
        """
        if self._said:
            return
        self._said = True
        total, free = self._items * size / encoded, shutil.disk_usage(self._folder).free
        if total > free:
            raise DataError(
                f"{self._folder}: the encoder's states of all items take {total / 2**30:.1f} GiB, "
                f"and {free / 2**30:.1f} GiB are free on this disk. Free some, put the dataset on "
                "another disk, or choose a smaller encoder."
            )
        seconds = (time.perf_counter() - self._started) * self._items / encoded
        _log.info(
            "states of %d items: %.2f GiB, computed once in about %.0f s, into %s",
            self._items, total / 2**30, seconds, self._folder,
        )  # fmt: skip


def _write(
    folder: Path, number: int, values: np.ndarray, lengths: list[int], identity: str, dtype: str
) -> None:
    file = _values_file(folder, number)
    _description_file(folder, number).unlink(missing_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as out:
        out.write(values.tobytes())
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, file)
    description = {
        "content": identity,
        "crc32": zlib.crc32(values.tobytes()),
        "dtype": dtype,
        "lengths": lengths,
        "width": values.shape[1],
    }
    partial = _description_file(folder, number).with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(description), encoding="utf-8")
    os.replace(partial, _description_file(folder, number))


def _is_sound(folder: Path, number: int, content: ContentReader, item_num: int) -> bool:
    """Whether a block is there, undamaged, and of the content that the items have now."""
    try:
        description = _read_description(folder, number)
        values = _values_file(folder, number).read_bytes()
    except (OSError, ValueError, KeyError):
        return False
    if description["content"] != content.identity(_items(number, item_num)):
        return False
    if zlib.crc32(values) == description["crc32"]:
        return True
    _log.warning("%s is damaged and made again", _values_file(folder, number))
    return False


def _read_description(folder: Path, number: int) -> dict[str, Any]:
    return json.loads(_description_file(folder, number).read_text(encoding="utf-8"))


def _values_file(folder: Path, number: int) -> Path:
    return folder / f"block-{number:06d}.bin"


def _description_file(folder: Path, number: int) -> Path:
    return folder / f"block-{number:06d}.json"


def _numpy(dtype: str) -> type:
    return {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32}[dtype]
