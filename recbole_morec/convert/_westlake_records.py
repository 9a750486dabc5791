"""Image records as Westlake's repositories pickle them into LMDBs; read without running anything.

PixelRec, NineRec, IDvs.MoRec and ODMT store every image as a pickled ``LMDB_Image`` object of the
script that built the LMDB. A pickle is a program: it can name any function of any module and call
it. Here it is read twice. The first pass only looks at its instructions and admits those that
build plain values and one object; none that calls anything is among them. The second pass is an
unpickler that knows one class, a stand-in of ours, under whatever module's name.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np

from recbole_morec.data.content.decoding import BadImageError

RECORD_CLASS = "LMDB_Image"

_VALUES = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
}
_ONE_OBJECT = {"GLOBAL", "STACK_GLOBAL", "NEWOBJ", "BUILD"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}
_FLOATS_OF_KS = (3, 224, 224)


class _Record:
    """Stands for the pickled class; holds the attributes as they come.

    Since it takes its state itself, the unpickler never sets an attribute, of it or of an object.
    """

    __slots__ = ("attributes",)

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict:
            raise pickle.UnpicklingError("the attributes are no dictionary")
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, admits_record: bool):
        super().__init__(io.BytesIO(data))
        self._admits_record = admits_record

    def find_class(self, module: str, name: str) -> type:
        if self._admits_record and name == RECORD_CLASS:
            return _Record
        raise pickle.UnpicklingError(f"asks for {module}.{name}")

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("asks for a persistent object")


def read_record(data: bytes) -> np.ndarray:
    """Return the pixels of a record.

    Records of raw pixels have the attributes ``image`` (uint8, height x width x 3, RGB),
    ``size`` (height, width) and ``channels``. ODMT's Kuaishou records hold float32 values instead,
    3 x height x width, that were normalised as ``(p / 255 - 0.5) / 0.5``; undoing this gives back
    the very pixels.

    Args:
        data: the pickle.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        BadImageError: the pickle is not such a record, or asks for anything else (nothing of it
            is run), or its bytes do not fit its size.
    """
    record = _load(data, admits_record=True)
    if record is None:
        raise BadImageError("the record is None")
    if type(record) is not _Record or not hasattr(record, "attributes"):
        raise BadImageError(f"the record is no {RECORD_CLASS}")
    image = record.attributes.get("image")
    if type(image) is not bytes:
        raise BadImageError(f"the {RECORD_CLASS} has no bytes of an image")
    shape = _shape(record.attributes)
    numbers = math.prod(shape) if shape else -1
    if len(image) == numbers and shape[2] == 3:
        return np.frombuffer(image, np.uint8).reshape(shape)
    planes = _planes(shape, len(image))
    if planes is None:
        described = " x ".join(map(str, shape)) if shape else "no known size"
        raise BadImageError(f"{len(image):,} bytes do not fit {described}")
    return _from_floats(np.frombuffer(image, "<f4").reshape(planes))


def read_listed_keys(data: bytes) -> list[bytes]:
    """Return the keys that the record ``__keys__`` lists: a pickled list of byte strings.

    Raises:
        BadImageError: it is anything else; nothing of it is run.
    """
    keys = _load(data, admits_record=False)
    if type(keys) is not list or any(type(key) is not bytes for key in keys):
        raise BadImageError("no list of byte strings")
    return keys


def _load(data: bytes, admits_record: bool) -> Any:
    admitted = _VALUES | _ONE_OBJECT if admits_record else _VALUES
    try:
        for instruction, argument, _ in pickletools.genops(data):
            if instruction.name == "GLOBAL" and admits_record:
                module, _, name = argument.rpartition(" ")
                if name != RECORD_CLASS:
                    raise pickle.UnpicklingError(f"asks for {module}.{name}")
            elif instruction.name not in admitted:
                raise pickle.UnpicklingError(f"contains the instruction {instruction.name}")
            if instruction.name in _MEMO and argument > len(data):
                raise pickle.UnpicklingError("numbers its values beyond its length")
        return _Unpickler(data, admits_record).load()
    except pickle.UnpicklingError as error:
        raise BadImageError(f"refused, nothing was run: the pickle {error}") from None
    except Exception as error:  # damaged pickles raise anything
        reason = str(error) or type(error).__name__
        raise BadImageError(f"no pickle that can be read ({reason})") from None


def _shape(attributes: dict[Any, Any]) -> tuple[int, int, int] | None:
    """Return (size[0], size[1], channels) as the record states them."""
    size, channels = attributes.get("size"), attributes.get("channels")
    if type(size) not in (tuple, list) or len(size) != 2:
        return None
    shape = (*size, channels)
    return shape if all(type(side) is int and side > 0 for side in shape) else None


def _planes(shape: tuple[int, int, int] | None, count: int) -> tuple[int, int, int] | None:
    """Return (3, height, width) of a record of floats, or ``None`` if it is none.

    Its size was taken as if the last axis were the channels: (3, height) and ``channels`` width.
    """
    options = [_FLOATS_OF_KS]
    if shape is not None:
        options = [shape] if shape[0] == 3 else [(3, shape[0], shape[1])] if shape[2] == 3 else []
    return next((option for option in options if 4 * math.prod(option) == count), None)


def _from_floats(planes: np.ndarray) -> np.ndarray:
    """Bring values in [-1, 1], ``[3, H, W]``, back to uint8 ``[H, W, 3]``."""
    if not np.isfinite(planes).all() or np.abs(planes).max() > 1.001:
        raise BadImageError(
            "floats outside [-1, 1]: not normalised with mean 0.5 and deviation 0.5"
        )
    pixels = np.rint((planes.astype(np.float64) * 0.5 + 0.5) * 255)
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()
