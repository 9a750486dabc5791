"""A training step with and without chunks: peak memory, the plan of it, and time.

``python benchmarks/memory.py [--encoder vit_small_patch32_224] [--train-layers all] [--items 60]
[--chunks 4 16] [--repeats 3]``

Every arm is a process of its own, since a process does not give its peak back, and each has the
same weights, covers and batch; losses and gradients are compared. *used* is what the process grows
by at its peak, *planned* the estimate that a run prints. *as it is* leaves malloc its ways; without
that, what is freed goes back at once (``MALLOC_MMAP_THRESHOLD_``). *time* is processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from recbole_morec.config import MoRecConfig
from recbole_morec.data.atomic import ContentTable, write_content
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.models.adapter import build_adapter
from recbole_morec.training.memory import plan_memory
from recbole_morec.training.optim import build_optimizer, parameter_groups

LENGTH = 10


def write_world(folder: Path, items: int) -> None:
    """A dataset of noise: each user has 12 items that nobody else has."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tokens = [f"i{i}" for i in range(items)]
    for token in tokens:
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{token}.png")
    rows = [f"u{i // 12}\t{token}\t{i}" for i, token in enumerate(tokens)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "noise.inter").write_text("\n".join([header, *rows]) + "\n")
    covers = [f"images/{token}.png" for token in tokens]
    write_content(
        folder / "noise.content", ContentTable({"cover": "image"}, tokens, {"cover": covers})
    )


def arm(options: argparse.Namespace, chunk: int | None) -> dict[str, float]:
    """One step (and ``repeats`` timed ones) in this process."""
    overrides = {
        "data_path": options.data, "show_progress": False, "use_gpu": False,
        "item_encoder": options.encoder, "train_layers": options.train_layers, "pretrained": False,
        "embedding_size": 64, "MAX_ITEM_LIST_LENGTH": LENGTH, "train_batch_size": 10_000,
        "encoder_dropout": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
        "encode_chunk": chunk,
    }  # fmt: skip
    config = MoRecConfig("PixelNet", "noise", overrides=overrides)
    config["device"] = torch.device("cpu")
    torch.manual_seed(0)
    adapter = build_adapter(config, MultimodalDataset(config))
    plan = plan_memory(adapter, Accelerator(cpu=True), config)
    optimizer = build_optimizer(parameter_groups(adapter.model, config), config)
    adapter.model.train()
    batch = next(TrainLoader(adapter.batches(), 10_000, seed=1).epoch(0))
    seconds, first = [], {}
    for _ in range(options.repeats):
        started = time.process_time()
        loss = adapter.loss(batch)
        loss.backward()
        gradients = [p.grad.norm() for p in adapter.model.parameters() if p.grad is not None]
        first = first or {"loss": loss.item(), "norm": torch.stack(gradients).norm().item()}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - started)
    # Not ru_maxrss, which starts from the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return {
        **first, "items": plan.items, "seconds": statistics.median(seconds),
        "used": peak - plan.held.before, "planned": plan.total - plan.held.before,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="vit_small_patch32_224")
    parser.add_argument("--train-layers", default="all")
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--chunks", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--arm", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm is not None:
        print(json.dumps(arm(options, options.arm or None)))
        return
    with tempfile.TemporaryDirectory() as data:
        write_world(Path(data) / "noise", options.items)
        plain = None
        print("| encoded at a time | used | planned | used as it is | time | loss, gradient norm |")
        print("| --- | ---: | ---: | ---: | ---: | --- |")
        for chunk in (0, *options.chunks):
            command = [sys.executable, __file__, *sys.argv[1:], "--data", data, "--arm", str(chunk)]
            results = [
                json.loads(
                    subprocess.run(
                        command, env={**os.environ, **more}, check=True, stdout=subprocess.PIPE
                    ).stdout.splitlines()[-1]
                )
                for more in ({"MALLOC_MMAP_THRESHOLD_": "65536"}, {})
            ]
            strict, usual = results
            plain = plain or results
            at_once = chunk or f"all {strict['items']}"
            print(
                f"| {at_once} "
                f"| {strict['used'] / 1e6:,.0f} MB ({strict['used'] / plain[0]['used']:.2f}) "
                f"| {strict['planned'] / 1e6:,.0f} MB | {usual['used'] / 1e6:,.0f} MB "
                f"| {usual['seconds'] / plain[1]['seconds']:.2f} "
                f"| {usual['loss']:.5f}, {usual['norm']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
