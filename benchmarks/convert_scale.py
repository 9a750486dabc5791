"""Time and memory of converting and opening PixelRec-shaped data of up to 200 million rows.

``python benchmarks/convert_scale.py [--rows 1e6 2e7 2e8] [--folder DIR]``

Writes ``interaction.csv`` (``item_id,user_id,timestamp``, string ids, rows shuffled, 6.7 rows per
user, items by a power law over 400,000), converts it without a k-core and opens the result, each in
a process of its own. Peak memory is summed over that process and its children, every 50 ms: *rss*
is all memory, mapped files included, *private* is what no file stands behind. With ``--recbole``,
RecBole's own loader reads the same ``.inter`` files up to that many rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil

ITEMS = 400_000
ROWS_PER_USER = 200e6 / 30e6
CHUNK = 2_000_000
GIB = 2**30

CONVERT = """
from pathlib import Path
from recbole_morec import convert
import sys
convert.convert_folder(sys.argv[1], sys.argv[2], name="scale")
"""
OPEN = """
import sys, time
from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
start = time.perf_counter()
settings = {"data_path": sys.argv[1], "item_encoder": "id"}
config = MoRecConfig("PixelNet", "scale", overrides=settings)
data = MultimodalDataset(config)
print("opened", time.perf_counter() - start, data.user_num - 1, data.item_num - 1)
if len(sys.argv) > 2:  # what a training prints and notes before its first step
    data.summary(), data.fingerprint(), data.digest()
"""
RECBOLE = """
import sys
from recbole_morec import compat  # noqa: F401
from recbole.config import Config
from recbole.data import create_dataset
config = Config(model="SASRec", dataset="scale", config_dict={
    "data_path": sys.argv[1], "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp", "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "MAX_ITEM_LIST_LENGTH": 10, "train_neg_sample_args": None,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}})
from recbole.data import data_preparation
data_preparation(config, create_dataset(config))
"""


def write_csv(path: Path, rows: int) -> None:
    """Write the synthetic interactions."""
    rng = np.random.default_rng(2026)
    users = max(int(rows / ROWS_PER_USER), 1)
    names = rng.permutation(ITEMS)
    weight = 1 / np.arange(20, ITEMS + 20) ** 0.9  # about as skewed as published popularity curves
    edges = np.cumsum(weight) / weight.sum()
    with path.open("wb") as file:
        file.write(b"item_id,user_id,timestamp\n")
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            frame = pl.DataFrame(
                {
                    "item": names[np.searchsorted(edges, rng.random(count)).clip(0, ITEMS - 1)],
                    "user": rng.integers(0, users, count),
                    "time": rng.integers(1_328_000_000, 1_656_000_000, count),
                }
            ).select(
                item=pl.lit("i") + pl.col("item").cast(pl.String),
                user=pl.lit("u") + pl.col("user").cast(pl.String),
                time="time",
            )
            frame.write_csv(file, include_header=False)


def measure(code: str, *arguments: object) -> tuple[float, float, float, str]:
    """Run code in a process; return seconds, peak rss and peak private memory (GiB), output."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    watched = psutil.Process(process.pid)
    rss = private = 0
    while process.poll() is None:
        all_rss = all_private = 0
        try:
            for each in (watched, *watched.children(recursive=True)):
                memory = each.memory_info()
                all_rss += memory.rss
                all_private += memory.rss - memory.shared
        except psutil.NoSuchProcess:
            pass
        rss, private = max(rss, all_rss), max(private, all_private)
        time.sleep(0.05)
    output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"failed: {output}")
    return time.perf_counter() - start, rss / GIB, private / GIB, output.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 2e7, 2e8])
    parser.add_argument("--folder", type=Path, default=Path("scale"))
    parser.add_argument("--recbole", type=float, default=0)
    options = parser.parse_args()
    print("| rows | step | seconds | us per row | peak rss, GiB | peak private, GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for rows in map(int, options.rows):
        source, output = options.folder / f"raw-{rows}", options.folder / f"out-{rows}" / "scale"
        source.mkdir(parents=True, exist_ok=True)
        if not (source / "interaction.csv").exists():
            write_csv(source / "interaction.csv", rows)
        shutil.rmtree(output, ignore_errors=True)
        steps = [
            ("convert", CONVERT, (source, output)),
            ("open", OPEN, (output.parent,)),
            ("open, count, fingerprint", OPEN, (output.parent, "all")),
        ]
        if rows <= options.recbole:
            steps.append(("RecBole", RECBOLE, (output.parent,)))
        for step, code, arguments in steps:
            seconds, rss, private, _ = measure(code, *arguments)
            print(
                f"| {rows:,} | {step} | {seconds:.1f} | {seconds / rows * 1e6:.2f} | {rss:.2f} | "
                f"{private:.2f} |",
                flush=True,
            )
        report = json.loads((output / "convert_report.json").read_text(encoding="utf-8"))
        print(f"<!-- {report['users']:,} users, {report['items']:,} items -->", flush=True)


if __name__ == "__main__":
    main()
