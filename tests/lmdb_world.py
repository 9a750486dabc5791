"""LMDBs as Westlake's scripts write them: records pickled from a class of the script itself."""

from __future__ import annotations

import pickle
import pickletools
import sys
import types
from pathlib import Path

import numpy as np

CHANNELS_LAST = (6, 4, 3)  # height, width, channels


def record_class(module: str = "__main__") -> type:
    """A class ``LMDB_Image`` that pickles by the name of a module, as in a script that ran."""

    class Image:
        def __init__(self, image: np.ndarray, id: object):
            self.channels = image.shape[2]
            self.size = image.shape[:2]
            self.image = image.tobytes()
            self.id = id

    Image.__name__ = Image.__qualname__ = "LMDB_Image"
    Image.__module__ = module
    return Image


def pickled(
    image: np.ndarray, id: object, module: str = "__main__", protocol: int = 4, **changes
) -> bytes:
    """The pickle of a record; the class is there only while it is made.

    ``data`` stands for the bytes of the image.
    """
    kind = record_class(module)
    home = sys.modules.get(module)
    made = home is None
    if made:
        home = sys.modules[module] = types.ModuleType(module)
    before = home.__dict__.get("LMDB_Image")
    home.LMDB_Image = kind
    try:
        record = kind(image, id)
        record.image = changes.get("data", record.image)
        return pickle.dumps(record, protocol)
    finally:
        if before is None:
            del home.LMDB_Image
        if made:
            del sys.modules[module]


def pixels(seed: int, shape: tuple[int, ...] = CHANNELS_LAST) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def normalised(image: np.ndarray) -> np.ndarray:
    """What ToTensor and Normalize(0.5, 0.5) make of an image: float32, channels first."""
    half = np.float32(0.5)
    return ((image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)) - half) / half


def write_lmdb(
    path: Path,
    records: dict[str, bytes],
    listed: list[str] | None = None,
    folder: bool = False,
) -> Path:
    import lmdb

    environment = lmdb.open(str(path), subdir=folder, map_size=2**26)
    with environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)
        if listed is not None:
            transaction.put(b"__keys__", pickle.dumps([key.encode() for key in listed]))
            transaction.put(b"__len__", pickle.dumps(len(listed)))
    environment.close()
    lock = path / "lock.mdb" if folder else path.with_name(path.name + "-lock")
    lock.unlink()
    return path


# --- hostile pickles ----------------------------------------------------------------------------

RECORD = b"c__main__\nLMDB_Image\n)\x81"
MARK, STOP = b"(", b"."


def hostile(marker: Path) -> dict[str, bytes]:
    """Pickles that would create ``marker`` or take hold of the class, by name of the trick."""
    command = f"touch {marker}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command

    class Reduce:
        def __reduce__(self):
            import os

            return os.system, (command.decode(),)

    class Hidden(Reduce):
        pass

    start = b"\x80\x02"
    tricks = {
        "reduce": pickle.dumps(Reduce()),
        "reduce in a list": pickle.dumps([1, Hidden()], 2),
        "global and reduce": start + b"cposix\nsystem\n" + text + b"\x85R.",
        "global alone": start + b"cposix\nsystem\n.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R.",
        "stack global alone": b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        "inst": start + MARK + text + b"iposix\nsystem\n.",
        "obj": start + MARK + b"cposix\nsystem\n" + text + b"o.",
        "newobj": start + b"cposix\nsystem\n" + text + b"\x85\x81.",
        "newobj_ex": b"\x80\x04cposix\nsystem\n" + text + b"\x85}\x92.",
        "name with dots": b"\x80\x04\x8c\x02os\x8c\x0aLMDB_Image\x93\x8c\x02os\x8c\x06system\x93.",
        "attribute of a record class": b"\x80\x04\x8c\x08__main__\x8c\x13LMDB_Image.__init__\x93.",
        "builtins": start + b"cbuiltins\neval\n" + text + b"\x85R.",
        "reduce of the record class": start + b"c__main__\nLMDB_Image\n)R.",
        "persistent id": start + b"Pevil\n.",
        "binary persistent id": start + text + b"Q.",
        "extension": start + b"\x82\x01.",
        "state of the class": start
        + b"c__main__\nLMDB_Image\nN}X\x05\x00\x00\x00imageC\x01xs\x86b.",
        "state of the class as a dictionary": start
        + b"c__main__\nLMDB_Image\n}X\x05\x00\x00\x00imageC\x01xsb.",
        "state that is no dictionary": start + RECORD + b"N}X\x05\x00\x00\x00imageC\x01xs\x86b.",
        "huge memo": start + RECORD + b"r\xff\xff\xff\x7f.",
        "huge frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f" + b"N.",
        "no end": start + RECORD,
        "nothing": b"\x80",
    }
    for name, trick in tricks.items():
        assert trick.startswith(b"\x80"), name
    # A trick that is no valid program would be refused for that, and would prove nothing.
    runnable = set(tricks) - {"huge frame", "no end", "nothing", "huge memo"}
    for name in runnable:
        list(pickletools.genops(tricks[name]))
    return tricks
