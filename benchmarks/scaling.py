"""Users per second and memory against batch, history length, catalogue and processes.

``python benchmarks/scaling.py [--steps 3] [--threads 2] [--processes]``

The trained tail of a small ViT (width 384, the last two of four blocks) inside SASRec of d = 512,
``in_batch``; one size grows at a time, each in a process of its own. Memory is what the measured
steps add to it at their peak (Linux). ``--processes`` trains an epoch of the same model with one
process and with two (gloo), which share the processor cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from step_world import (
    NAME,
    Case,
    Clock,
    Ours,
    machine,
    peak_growth,
    reset_peak,
    settings_of,
    start,
    write_world,
)

TAIL = Case("trained tail", "small-vit", "last_2", "project_mean")
SIZES = {
    "batch": [{"batch": size} for size in (16, 64, 256)],
    "L": [{"length": size} for size in (5, 10, 20, 50)],
    "items": [{"items": size} for size in (300, 1000, 3000)],
}
USUAL = {"batch": 16, "length": 10, "items": 300}
ROOT = Path(__file__).parent.parent


def row(size: dict[str, int], options: argparse.Namespace) -> str:
    """The table's row of a size, from a process of its own."""
    command = [sys.executable, __file__, "--only", json.dumps({**USUAL, **size})]
    command += [f"--steps={options.steps}", f"--threads={options.threads}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip()


def measure(batch: int, length: int, items: int, steps: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder), items=items, windows=max(4 * batch, 300), length=length)
        case = replace(TAIL, length=length)
        ours = Ours(case, world, train_batch_size=batch, objective="in_batch")
        ours.prepare()
        batches, clock = ours.batches(), Clock()
        before = reset_peak()
        ours.step(next(batches))  # pays for what starts up
        for _ in range(steps):
            with clock.time("step"):
                ours.step(next(batches))
        memory = (peak_growth() - before) / 1024
    rate = batch / clock.median("step")
    return f"| {batch} | {length} | {items} | {ours.items} | {rate:.1f} | {memory:.0f} |"


def processes(count: int, folder: Path, threads: int) -> float:
    """Users per second of the second of two epochs."""
    config = settings_of(TAIL, folder, objective="in_batch").plain()
    config |= {"epochs": 2, "checkpoint_dir": str(folder / f"saved{count}"), "train_batch_size": 64}
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in config.items() if k != "device"}))
    start = [sys.executable]
    if count > 1:
        start = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    command = [*start, str(ROOT / "run_recbole_morec.py"), f"--config_files={file}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(threads // count, 1))}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=folder)
    (metrics,) = (folder / f"saved{count}").glob(f"{NAME}/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line["users/s"] for line in lines if line["kind"] == "train"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    start(options.threads)
    if options.only:
        print(measure(**json.loads(options.only), steps=options.steps))
        return
    print(machine())
    for name, sizes in SIZES.items():
        print(f"\nagainst {name}\n")
        print(
            "| batch | L | items | encoded | users/s | MiB |\n| --- | --- | --- | --- | --- | --- |"
        )
        for size in sizes:
            print(row(size, options), flush=True)
    if options.processes:
        with tempfile.TemporaryDirectory() as folder:
            world = write_world(Path(folder), items=300, windows=600)
            rates = {count: processes(count, world, options.threads) for count in (1, 2)}
        print("\n| processes | users/s | ratio |\n| --- | --- | --- |")
        for count, rate in rates.items():
            print(f"| {count} | {rate:.1f} | {rate / rates[1]:.2f} |")


if __name__ == "__main__":
    main()
