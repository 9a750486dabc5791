"""One training step of ODMT: ours against the plain path, and the memory of both.

``python benchmarks/odmt_step.py [--dim 128] [--batch 128] [--repeats 5]``

The shape is that of the Stream data set (B = 128 users, L = 12, 19,683 items drawn by Zipf's law,
50 image tokens, 30 text tokens of which 12 are real on average), with a smaller d so that a CPU can
do it. *Plain* does what the published code does: every slot goes through the item transformer,
padding and repeated items included, every token through every block, and every slot is a column of
the logits. Both arms have the same weights and batch; losses and gradients are compared first, then
the arms take turns. Memory is what a step adds to a process of its own at its peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from recbole_morec.config import MoRecConfig
from recbole_morec.item_encoders.id_aware import IdAwareEncoder
from recbole_morec.item_encoders.id_aware_transformer import IdAwareTransformer
from recbole_morec.models.odmt import ODMT

ITEMS, LENGTH, WORDS, PATCHES = 19_683, 12, 30, 50
HISTORIES = {"mean 6.9": 1.9, "full": None}


class OnTables(ODMT):
    """ODMT whose content is handed to it."""

    def build_item_encoder(self, config, dataset, load_weights):
        widths = dict.fromkeys(("id", "text", "image"), config["embedding_size"])
        transformer = IdAwareTransformer(config["embedding_size"], widths, dropout=0.0)
        args = ("odmt", ITEMS + 1, config["embedding_size"], widths)
        return IdAwareEncoder(*args, transformer=transformer)


def model_of(dim: int) -> ODMT:
    overrides = {
        "embedding_size": dim, "MAX_ITEM_LIST_LENGTH": LENGTH, "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0, "distillation_alpha": 0.5,
    }  # fmt: skip
    config = MoRecConfig("ODMT", "stream", overrides=overrides)
    config["device"] = torch.device("cpu")
    torch.manual_seed(1)
    dataset = SimpleNamespace(item_num=ITEMS + 1, user_num=2, num=lambda field: 2)
    return OnTables(config, dataset)


def batch_of(users: int, dim: int, extra: float | None) -> dict:
    """A batch of histories of 5 to L + 1 items: 5 + a geometric number with mean ``extra``."""
    rng = np.random.default_rng(1)
    lengths = np.full(users, LENGTH + 1)
    if extra is not None:
        lengths = np.minimum(5 + rng.geometric(1 / (1 + extra), users) - 1, LENGTH + 1)
    popularity = 1 / np.arange(1, ITEMS + 1)
    popularity /= popularity.sum()
    drawn = rng.choice(np.arange(1, ITEMS + 1), (users, LENGTH + 1), p=popularity)
    seq = np.where(np.arange(LENGTH + 1) >= LENGTH + 1 - lengths[:, None], drawn, 0)
    items, index = np.unique(np.append(seq, 0), return_inverse=True)
    index = index[:-1].reshape(seq.shape)
    items = items[1:]
    words = rng.integers(4, 21, len(items))  # 12 on average
    torch.manual_seed(2)
    seq = torch.from_numpy(seq)
    target = seq > 0
    target[:, 1:] &= seq[:, :-1] > 0
    target[:, 0] = False
    return {
        "user": torch.ones(users, dtype=torch.long), "item_seq": seq, "mask": seq > 0,
        "target": target, "newest_only": False, "item_index": torch.from_numpy(index),
        "content": {
            "items": torch.from_numpy(items),
            "text_states": torch.randn(len(items), WORDS, dim),
            "text_states_mask": torch.from_numpy(np.arange(WORDS) < words[:, None]),
            "image_states": torch.randn(len(items), PATCHES, dim),
            "image_states_mask": torch.ones(len(items), PATCHES, dtype=torch.bool),
        },
        "slot_count": torch.bincount(torch.from_numpy(index).flatten())[1:].float(),
        "log_popularity": torch.from_numpy(np.log(popularity[items - 1])).float(),
        "global_rows": users, "global_terms": int(target.sum()), "epoch": 0,
    }  # fmt: skip


def per_slot(batch: dict) -> dict:
    """The batch with a row for every slot, padding included, as the published code feeds it."""
    slots = batch["item_index"].flatten()
    pad = {
        key: torch.cat([torch.zeros_like(value[:1]), value])
        for key, value in batch["content"].items()
    }
    real = batch["mask"].flatten()
    return {
        **batch,
        "content": {key: value[slots] for key, value in pad.items()},
        "item_index": torch.arange(1, len(slots) + 1).view_as(batch["item_index"]),
        "slot_count": real.float(),
        "log_popularity": torch.cat([torch.zeros(1), batch["log_popularity"]])[slots],
    }


def step(model: ODMT, batch: dict, plain: bool) -> Tensor:
    model.item_encoder.transformer.plain = plain
    model.zero_grad()
    loss = sum(model.calculate_loss(batch).values())
    loss.backward()
    return loss.detach()


def memory_of(arm: str, name: str, dim: int, users: int) -> float:
    """What one step of an arm adds to a process's resident memory at its peak, MiB."""
    command = [sys.executable, __file__, "--dim", str(dim), "--batch", str(users), "--only", arm]
    done = subprocess.run([*command, name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def only(arm: str, name: str, dim: int, users: int) -> None:
    model, batch = model_of(dim), batch_of(users, dim, HISTORIES[name])
    if arm == "plain":
        batch = per_slot(batch)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    before = _status("VmRSS")
    step(model, batch, arm == "plain")
    print(json.dumps((_status("VmHWM") - before) / 1024))


def _status(key: str) -> int:
    """A line of Linux's /proc/self/status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        only(*options.only, options.dim, options.batch)
        return
    model = model_of(options.dim)
    print("| histories | slots | items | plain s | ours s | ratio | plain MiB | ours MiB |")
    print("| --- |" + " --- |" * 7)
    for name, extra in HISTORIES.items():
        batch = batch_of(options.batch, options.dim, extra)
        slots = per_slot(batch)
        losses, gradients = [], []
        for arm, plain in ((slots, True), (batch, False)):
            losses.append(step(model, arm, plain).item())
            gradients.append([p.grad.clone() for p in model.parameters()])
        apart = max(
            float((a - b).norm() / a.norm().clamp_min(1e-12))
            for a, b in zip(*gradients, strict=True)
        )
        seconds: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(options.repeats):
            for arm in seconds:
                started = time.perf_counter()
                step(model, slots if arm == "plain" else batch, arm == "plain")
                seconds[arm].append(time.perf_counter() - started)
        plain, ours = (statistics.median(values) for values in seconds.values())
        memory = [memory_of(arm, name, options.dim, options.batch) for arm in seconds]
        print(
            f"| {name} | {slots['mask'].numel()} | {len(batch['content']['items'])} | {plain:.2f} "
            f"| {ours:.2f} | {plain / ours:.2f} | {memory[0]:.0f} | {memory[1]:.0f} |"
        )
        loss = abs(losses[0] - losses[1]) / losses[0]
        print(f"  apart: loss {loss:.1e}, gradients {apart:.1e}", file=sys.stderr)


if __name__ == "__main__":
    main()
