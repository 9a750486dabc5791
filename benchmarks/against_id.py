"""Training on item content against training on item ids, everything else equal.

``python benchmarks/against_id.py [--items 3000 100000] [--tail_items 500] [--steps 10]``

First table: SASRec (d = 512, L = 10, BPR) on frozen features of 768 numbers, which are read from
the store (``train_layers: none``), over the same SASRec on a table of ids, at several sizes of the
catalogue. What made the features does not matter to a step, so that a shallow encoder makes them.
A dense optimiser walks through the whole table of ids in every step, which flatters any rival when
the catalogue is large.

Second table: a trained tail (the last two blocks of a ViT of width 384, 224 px) at growing batches.
A batch cannot hold more distinct items than the catalogue, so that the cost per user falls.

Arms take turns; an epoch is the median step times its number of steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from step_world import Case, Clock, Ours, machine, start, write_world

FROZEN = Case("frozen features", "shallow-vit", "none", "pooler")
TAIL = Case("trained tail", "small-vit", "last_2", "project_mean")
IDS = Case("ids", "id", "all", "default")


def compare(case: Case, folder: Path, batch: int, steps: int) -> tuple[Clock, Ours, Ours]:
    clock = Clock()
    arms = {
        name: Ours(each, folder, train_batch_size=batch)
        for name, each in (("content", case), ("ids", IDS))
    }
    batches = {}
    for name, arm in arms.items():
        arm.prepare()
        batches[name] = arm.batches()
    for name, arm in arms.items():  # the first pays for what starts up
        arm.step(next(batches[name]))
    for _ in range(steps):
        for name, arm in arms.items():
            with clock.time(name):
                arm.step(next(batches[name]))
    return clock, arms["content"], arms["ids"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="*", default=[3000, 100_000])
    parser.add_argument("--frozen_batches", type=int, nargs="*", default=[16, 64, 256])
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--tail_items", type=int, default=500)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    start(options.threads)
    print(machine())
    print("\n| items | batch | ids, s per epoch | frozen features | ratio | processor |")
    print("| --- |" + " --- |" * 5)
    for items in options.items:
        with tempfile.TemporaryDirectory() as folder:
            world = write_world(Path(folder), items=items, covers=64, size=32)
            for batch in options.frozen_batches:
                clock, ours, _ = compare(FROZEN, world, batch, options.steps)
                ids, content = (clock.median(arm) * len(ours.loader) for arm in ("ids", "content"))
                print(
                    f"| {items} | {batch} | {ids:.1f} "
                    f"| {content:.1f} | {clock.ratio('content', 'ids'):.2f} "
                    f"| {clock.processor_ratio('content', 'ids'):.2f} |",
                    flush=True,
                )
    print(f"\n{options.tail_items} items\n")
    print("| batch | slots | encoded | ms per user | ids | ratio | processor |")
    print("| --- |" + " --- |" * 6)
    with tempfile.TemporaryDirectory() as folder:
        windows = max([4500, *(4 * batch for batch in options.batches)])  # so that all are full
        world = write_world(Path(folder), items=options.tail_items, windows=windows)
        for batch in options.batches:
            clock, ours, _ = compare(TAIL, world, batch, 3)
            print(
                f"| {batch} | {batch * 22} | {ours.items} "
                f"| {1000 * clock.median('content') / batch:.2f} "
                f"| {1000 * clock.median('ids') / batch:.2f} | {clock.ratio('content', 'ids'):.1f} "
                f"| {clock.processor_ratio('content', 'ids'):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
