"""The figures of docs/image-store.md: random reads from the store, an LMDB and plain files.

``python benchmarks/image_store.py [--images 5000] [--reads 10000] [--keys 400000]``

Makes photo-like JPEGs, builds a store of them, puts the stored bytes into an LMDB and into files
as well, and reads all of them in one random order. Every ratio is taken within one round, in which
all kinds are read one after the other; the median of the rounds is printed. The page cache is warm:
what is measured is the way to the bytes, not the disk. ``--keys N`` measures opening a store of N
images.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from recbole_morec.convert._image_sources import ImageSource, open_images
from recbole_morec.convert._image_store_writer import build_image_store
from recbole_morec.data.content.decoding import decode_image
from recbole_morec.data.content.image_store import ImageStore, record_crc
from recbole_morec.data.content.images import usable_cpus

KINDS = ("memory", "store", "LMDB", "LMDB + CRC", "files")
SIZE = 256  # shorter side of the stored images, in pixels
READ_SIZE = 224  # of the decoded images
ROUNDS = 5

_OPENING = """
import sys, time
from recbole_morec.data.content.image_store import ImageStore

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

before, start = anonymous(), time.perf_counter()
store = ImageStore.open(sys.argv[1])
opened = time.perf_counter() - start
keys = [f"item{n}" for n in range(0, len(store), max(1, len(store) // 10_000))]
store.read(keys[0])
start = time.perf_counter()
found = sum(key in store for key in keys)
looked = (time.perf_counter() - start) / len(keys)
del keys
print(f"{len(store):,} images: opened in {opened * 1e3:.0f} ms; a look-up takes "
      f"{looked * 1e6:.1f} us; {anonymous() - before:.0f} MiB of memory that is not files' pages")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=0, help="measure opening a store of so many")
    args = parser.parse_args()
    print(f"{usable_cpus()} processors, no GPU is used")
    with tempfile.TemporaryDirectory() as place:
        if args.keys:
            measure_opening(Path(place), args.keys)
            return
        store = build(Path(place), args.images)
        for processes in (1, 2):
            measure_reads(Path(place), store, args.reads, processes)


def build(place: Path, count: int) -> ImageStore:
    """Make the images, the store, the LMDB and the files; print their sizes."""
    import lmdb

    raw = place / "raw"
    raw.mkdir()
    for number in range(count):
        (raw / f"item{number}.jpg").write_bytes(photo(number))
    source = open_images(raw)
    wanted = {Path(name).stem: name for name in source.names()}
    start = time.perf_counter()
    summary = build_image_store(source, wanted, place / "images", size=SIZE, workers=1)
    rate = count / (time.perf_counter() - start)
    print(f"built by one thread at {rate:,.0f} images/s: {summary}")
    store = ImageStore.open(place / "images")
    (place / "files").mkdir()
    with (
        lmdb.open(str(place / "lmdb"), map_size=4 * summary.bytes) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key in store.keys():  # noqa: SIM118
            transaction.put(key.encode(), store.read(key))
            (place / "files" / f"{key}.jpg").write_bytes(store.read(key))
    size = (place / "lmdb" / "data.mdb").stat().st_size
    print(f"the LMDB of the same bytes takes {size / summary.bytes:.3f} times the store")
    return store


def photo(seed: int) -> bytes:
    """A JPEG of 480 x 320 pixels with large shapes and fine grain."""
    rng = np.random.default_rng(seed)
    image = np.zeros((320, 480, 3), np.float32)
    for side, strength in ((4, 150), (24, 60), (120, 20)):
        rough = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        smooth = Image.fromarray(rough).resize((480, 320), Image.Resampling.BICUBIC)
        image += np.asarray(smooth, np.float32) * (strength / 255)
    out = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=92)
    return out.getvalue()


def measure_reads(place: Path, store: ImageStore, reads: int, processes: int) -> None:
    """Print the speed of every kind as a share of decoding the same bytes from memory."""
    keys = list(store.keys())
    context = multiprocessing.get_context("spawn")
    workers = []
    for number in range(processes):
        ours, theirs = context.Pipe()
        order = np.random.default_rng(number).integers(0, len(keys), reads).tolist()
        job = (theirs, place, store, [keys[at] for at in order])
        worker = context.Process(target=serve, args=job, daemon=True)
        worker.start()
        workers.append((worker, ours))
    for decode in (True, False):
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for part in range(-1, ROUNDS):  # the first round only warms up
            for kind in KINDS if part % 2 else KINDS[::-1]:
                start = time.perf_counter()
                for _, pipe in workers:
                    pipe.send((kind, max(part, 0), decode))
                for _, pipe in workers:
                    pipe.recv()
                if part >= 0:
                    times[kind].append(time.perf_counter() - start)
        report(times, processes, reads, decode)
    for worker, pipe in workers:
        pipe.send(None)
        worker.join()


def report(times: dict[str, list[float]], processes: int, reads: int, decode: bool) -> None:
    what = "reading and decoding" if decode else "reading alone"
    base = "memory" if decode else "store"
    print(f"{processes} process{'es' if processes > 1 else ''}, {reads:,} reads each, {what}:")
    for kind in KINDS:
        ratios = [one / other for one, other in zip(times[base], times[kind], strict=True)]
        each = statistics.median(times[kind]) / (reads / ROUNDS) * 1e6
        print(
            f"  {kind:10} {statistics.median(ratios):7.3f} of {base}  "
            f"({min(ratios):.3f} to {max(ratios):.3f}; {each:,.1f} us a read)"
        )


def serve(pipe, place: Path, store: ImageStore, keys: Sequence[str]) -> None:
    """In a process of its own: read the keys as told, answer when done."""
    readers = open_readers(place, store, keys)
    while (order := pipe.recv()) is not None:
        kind, part, decode = order
        read = readers[kind]
        share = len(keys) // ROUNDS
        for key in keys[part * share : (part + 1) * share]:
            data = read(key)
            if decode:
                decode_image(data, READ_SIZE)
        pipe.send("done")


def open_readers(
    place: Path, store: ImageStore, keys: Sequence[str]
) -> dict[str, Callable[[str], bytes]]:
    import lmdb

    def checked(key: str, data: bytes) -> bytes:
        record_crc(key.encode(), data)  # what the store does at every read
        return data

    memory = {key: store.read(key) for key in keys}
    environment = lmdb.open(str(place / "lmdb"), readonly=True, lock=False, readahead=False)
    transaction = environment.begin()
    return {
        "memory": memory.__getitem__,
        "store": store.read,
        "LMDB": lambda key: transaction.get(key.encode()),
        "LMDB + CRC": lambda key: checked(key, transaction.get(key.encode())),
        "files": lambda key: (place / "files" / f"{key}.jpg").read_bytes(),
    }


def measure_opening(place: Path, count: int) -> None:
    """Build a store of many tiny images; print what opening it and finding keys costs."""
    source = Tiny(count)
    wanted = dict(zip(source.names(), source.names(), strict=True))
    build_image_store(source, wanted, place / "images", encoding="as_is", workers=1)
    command = [sys.executable, "-c", _OPENING, str(place / "images")]
    for _ in range(3):
        subprocess.run(command, check=True, env=dict(os.environ))


class Tiny(ImageSource):
    """One tiny image under many names."""

    kind = "folder"

    def __init__(self, count: int):
        super().__init__(Path("tiny"))
        out = io.BytesIO()
        Image.new("RGB", (1, 1)).save(out, "JPEG")
        self._image = out.getvalue()
        self._names = [f"item{number}" for number in range(count)]

    def names(self) -> Sequence[str]:
        return self._names

    def fingerprint(self, name: str) -> str:
        return ""

    def stream(self, names) -> Iterator[tuple[str, bytes]]:
        return ((name, self._image) for name in names)


if __name__ == "__main__":
    main()
