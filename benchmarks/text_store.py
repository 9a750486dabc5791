"""What the text store saves: seconds until the tokens of all items are there, built and opened.

``python benchmarks/text_store.py [--items 400000] [--tokenizer <folder or hub id>]``

The texts are random words of the tokenizer's vocabulary, about 14 tokens each. Prints one line per
way, with the seconds as a ratio to tokenising into memory, and the memory that it holds for itself
(mapped files do not count, since the system may drop them) afterwards and at most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from recbole_morec.data.content import TextReader

BUNDLED = Path(__file__).resolve().parent.parent / "dataset_atomic" / "pixelrec" / "tokenizer"


def random_texts(tokenizer, items: int) -> list[str | None]:
    """One text per item, with padding first."""
    random = np.random.default_rng(0)
    words = np.array([word for word in sorted(tokenizer.get_vocab()) if word.isalpha()])
    lengths = random.integers(4, 21, items)
    drawn = np.split(words[random.integers(0, len(words), lengths.sum())], lengths.cumsum()[:-1])
    return [None, *(" ".join(own) for own in drawn)]


def own_memory() -> float:
    """MiB of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(tokenizer: str, items: int, folder: Path | None, answer) -> None:
    """Open the texts once in this process and send (seconds, MiB after, MiB at most)."""
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    texts = random_texts(loaded, items)
    loaded("warm up")
    before, most, done = own_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], own_memory())

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    reader = TextReader(loaded, texts, 30, folder=folder)
    seconds = time.perf_counter() - start
    done.set()
    after = own_memory()
    reader.fetch(np.arange(64))
    answer.put((seconds, after - before, max(most[0], after) - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=400_000)
    parser.add_argument("--tokenizer", default=str(BUNDLED))
    flags = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        first = None
        for way, place in (("memory", None), ("built", folder), ("opened", folder)):
            task = (flags.tokenizer, flags.items, place and Path(place), answer)
            process = context.Process(target=measure, args=task)
            process.start()
            seconds, after, most = answer.get(timeout=3600)
            process.join()
            first = first or seconds
            print(
                f"{way:<7} {seconds:7.2f} s  {seconds / first:6.3f} of memory   "
                f"{after:6.0f} MiB held, {most:6.0f} MiB at most"
            )


if __name__ == "__main__":
    main()
