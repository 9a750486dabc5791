"""One training step: ours against a plain loop that does what published code does.

``python benchmarks/train_step.py [--case vit] [--rounds 3] [--free 20] [--memory]``

The setting is PixelRec's: SASRec of d = 512 with 2 layers on ViT-B/32 at 224 px, of which the last
two blocks train, L = 10, batches of 16 windows, one uniform negative per position, BPR; 4,500
windows of 3,000 items. *Plain* decodes a JPEG per occurrence and encodes every slot with the
library's encoder in float32, padding included. The arms have the same windows, negatives and
weights and take turns, one step each, after a round that is not counted (memory and optimiser
states come to be in it); ratios are medians over the rounds. ``processor`` is the same
ratio in processor seconds, which other programs on the machine disturb less.

- ``loss apart``: relative difference of the losses, with the weights set equal before every step;
  ``--free 20`` lets both arms go their way from equal weights for 20 steps first, and ours a second
  time with another attention kernel: what rounding alone does. With ``--double`` the steps
  are of float64, and the plain arm rounds the states of its frozen blocks to float32, as the store
  of ours does. ``--learning_rate`` is 1e-4 as published; other values for both arms.
- ``honest``: time of the plain step over that of the library's encoder (forward and backward) on
  the same slots plus their decoding: at most 1.1.
- The states of the frozen blocks are made for the items of the measured steps, and what all items
  take is computed from that; ``--all_items`` makes them all.
- ``--case`` names other encoders (vit, resnet50, swin-t, bert-base, minilm, all), ``--batch``
  another number of windows, ``--threads`` those of torch.
- ``--attention`` adds the time of eager attention over that of SDPA, in each precision.
- bf16 arms run where the processor multiplies bfloat16, or with ``--bf16``.
- ``--memory`` adds what a step of every arm adds to a process of its own at its peak (Linux).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from step_world import (
    CASES,
    Case,
    Clock,
    Library,
    Ours,
    Plain,
    has_bf16,
    in_double,
    machine,
    peak_growth,
    reset_peak,
    start,
    take_weights,
    write_world,
)

ARMS = {
    "ours fp32": {},
    "ours fp32, in_batch": {"objective": "in_batch"},
    "ours bf16": {"bf16": True},
    "ours bf16, in_batch": {"bf16": True, "objective": "in_batch"},
}
EPOCHS = 10  # over which the one-time cost is spread


def arm_names(options: argparse.Namespace) -> list[str]:
    half = options.bf16 or has_bf16()
    return [name for name, arm in ARMS.items() if half or "bf16" not in arm]


def make(arm: str, case: Case, folder: Path, options: argparse.Namespace) -> Ours:
    rate = dict.fromkeys(("learning_rate", "encoder_learning_rate"), options.learning_rate)
    return Ours(case, folder, train_batch_size=options.batch, **rate, **ARMS[arm])


def items_of(ours: Ours, steps: int) -> np.ndarray:
    """The items of the first steps."""
    builder = ours.loader.builder
    readers, builder._content.readers = builder._content.readers, []
    batches = list(islice(ours.batches(), steps))
    builder._content.readers = readers
    return np.unique(np.concatenate([batch["content"]["items"].numpy() for batch in batches]))


def prepare(ours: Ours, steps: int, all_items: bool) -> float:
    """Make the states; returns seconds that they take for all items."""
    if all_items:
        ours.prepare()
        return ours.prepared
    count = ours.dataset.item_num - 1
    return ours.prepare_for(items_of(ours, steps)) * count


def free_run(case: Case, folder: Path, options: argparse.Namespace) -> None:
    """Let the arms go from equal weights, and tell how far their losses part."""
    ours = make("ours fp32", case, folder, options)
    plain = Plain(ours)
    runs = {"ours": ours}
    if options.double:
        in_double(ours, plain)
    prepare(ours, options.free, options.all_items)
    if not options.double and getattr(plain.encoder.backbone, "_supports_sdpa", False):
        control = make("ours fp32", case, folder, options)
        prepare(control, options.free, options.all_items)
        control.model.item_encoder.backbone.set_attn_implementation("sdpa")
        runs["ours with another attention kernel"] = control
    batches = {name: run.batches() for name, run in runs.items()}
    theirs, apart = plain.batches(), {name: [] for name in runs}
    for number in range(options.free):
        loss = plain.step(next(theirs))
        losses = {name: run.step(next(batches[name])) for name, run in runs.items()}
        for name, own in losses.items():
            apart[name].append(abs(own / (loss if name == "ours" else losses["ours"]) - 1))
        newest = ", ".join(f"{name} {values[-1]:.1e}" for name, values in apart.items())
        print(f"step {number + 1}: loss {loss:.6f}, apart: {newest}", file=sys.stderr)
    kind = "double precision" if options.double else "fp32"
    for name, values in apart.items():
        other = "plain" if name == "ours" else "ours"
        print(f"\n{options.free} free steps of {kind}, {name}: losses apart from {other} by "
              f"{values[-1]:.1e} in the last, {max(values):.1e} at most")  # fmt: skip


def compare(case: Case, folder: Path, options: argparse.Namespace) -> None:
    arms = {name: make(name, case, folder, options) for name in arm_names(options)}
    plain = Plain(arms["ours fp32"])
    library = Library(plain)
    steps = options.rounds + 1
    cost: dict[str, float] = {}
    for half in (False, True):  # the arms of a precision share their states; the first needs most
        same = {name: arm for name, arm in arms.items() if arm.bf16 is half}
        times = [prepare(arm, steps, options.all_items) for arm in same.values()]
        cost |= dict.fromkeys(same, max(times, default=0.0))
    warm = plain.inputs(torch.arange(2))
    library.step(warm)
    clock, apart, items = Clock(), [], {name: [] for name in arms}
    batches = {name: arm.batches() for name, arm in arms.items()}
    plain_batches = plain.batches()
    for number in range(options.rounds + 1):
        if number == 1:
            clock = Clock()
        take_weights(plain.model, arms["ours fp32"].model)
        losses = {}
        for name, arm in arms.items():
            with clock.time(name):
                losses[name] = arm.step(next(batches[name]))
            items[name].append(arm.items)
        with clock.time("plain"):
            batch = next(plain_batches)
            losses["plain"] = plain.step(batch)
        with clock.time("decoding"):
            inputs = plain.inputs(plain.slots_of(batch))
        with clock.time("library"):
            library.step(inputs)
        apart.append(abs(losses["ours fp32"] / losses["plain"] - 1))
        newest = {name: (clock.wall[name][-1], clock.processor[name][-1]) for name in clock.wall}
        told = (f"{name} {wall:.1f} ({used:.1f})" for name, (wall, used) in newest.items())
        print("s (processor s):", ", ".join(told), f"apart {apart[-1]:.1e}", file=sys.stderr)
    print(f"\n{case.title}; batch {options.batch}, L = {case.length}\n")
    print("| arm | encoded | s per step | users/s | ratio | processor | states, s | with them |")
    print("| --- |" + " --- |" * 7)
    seconds = clock.median("plain")
    rate = options.batch / seconds
    print(f"| plain fp32 | {plain.slots} | {seconds:.2f} | {rate:.2f} | 1 | 1 | | |")
    epoch = len(arms["ours fp32"].loader)
    for name in arms:
        own, ratio = clock.median(name), clock.ratio("plain", name)
        spread = own / (own + cost[name] / (EPOCHS * epoch))
        print(
            f"| {name} | {statistics.mean(items[name]):.0f} | {own:.2f} "
            f"| {options.batch / own:.2f} | {ratio:.2f} "
            f"| {clock.processor_ratio('plain', name):.2f} | {cost[name]:.0f} "
            f"| {ratio * spread:.2f} |"
        )
    bare = [a + b for a, b in zip(clock.wall["library"], clock.wall["decoding"], strict=True)]
    honest = statistics.median(
        own / other for own, other in zip(clock.wall["plain"], bare, strict=True)
    )
    print(
        f"\nhonest: {honest:.2f} (library {clock.median('library'):.2f} s + decoding "
        f"{clock.median('decoding'):.2f} s); loss apart at most {max(apart):.1e}; states made "
        f"once, spread over {EPOCHS} epochs of {epoch} steps"
    )


def attention(case: Case, folder: Path, options: argparse.Namespace) -> None:
    """SDPA against eager attention: the trained part of the step alone."""
    precisions = [False, True] if options.bf16 or has_bf16() else [False]
    for half in precisions:
        ours = Ours(case, folder, bf16=half, train_batch_size=options.batch)
        if not hasattr(ours.model.item_encoder.backbone, "set_attn_implementation"):
            return
        prepare(ours, 1, options.all_items)
        batch, clock = next(ours.batches()), Clock()
        for _ in range(max(options.rounds, 1) + 1):
            for kind in ("sdpa", "eager"):
                ours.model.item_encoder.backbone.set_attn_implementation(kind)
                with clock.time(kind):
                    ours.step(batch)
        for times in (clock.wall, clock.processor):
            for kind in times:
                times[kind] = times[kind][1:]
        print(
            f"\nattention, {'bf16' if half else 'fp32'}: eager takes "
            f"{clock.ratio('eager', 'sdpa'):.2f} of sdpa's time "
            f"(processor {clock.processor_ratio('eager', 'sdpa'):.2f})"
        )


def memory(case: Case, options: argparse.Namespace) -> None:
    print("\n| arm | MiB that a step adds at its peak |")
    print("| --- | --- |")
    for name in ["plain", *arm_names(options)]:
        command = [sys.executable, __file__, "--case", options.case, "--only", name]
        command += ["--batch", str(options.batch)] + ["--bf16"] * options.bf16
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"| {name} | {json.loads(done.stdout.splitlines()[-1]):.0f} |", flush=True)


def only(name: str, case: Case, folder: Path, options: argparse.Namespace) -> None:
    """One step of one arm; prints the growth of resident memory at its peak, MiB."""
    arm = make("ours fp32" if name == "plain" else name, case, folder, options)
    if name == "plain":
        arm = Plain(arm)
    else:
        prepare(arm, 1, False)
    batches = arm.batches()
    before = reset_peak()
    arm.step(next(batches))
    print(json.dumps((peak_growth() - before) / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES, "all"], default="vit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--free", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for flag in ("--bf16", "--memory", "--all_items", "--attention", "--double"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    start(options.threads)
    names = list(CASES) if options.case == "all" else [options.case]
    if not options.only:
        print(machine())
        if not has_bf16() and not options.bf16:
            print("this processor does not multiply bfloat16: no bf16 arms")
    for name in names:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            world = write_world(Path(folder), length=case.length)
            if options.only:
                only(options.only, case, world, options)
                return
            started = time.perf_counter()
            if options.free:
                free_run(case, world, options)
            if options.rounds:
                compare(case, world, options)
            if options.attention:
                attention(case, world, options)
            print(f"\n({time.perf_counter() - started:.0f} s)", flush=True)
        if options.memory:
            options.case = name
            memory(case, options)


if __name__ == "__main__":
    main()
