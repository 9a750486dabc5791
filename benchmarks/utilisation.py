"""How much of a training step is spent in its own matrix products.

``python benchmarks/utilisation.py [--items 96] [--rounds 5] [--threads 2] [--bf16]``

The step is the trained tail of ViT-B/32 (its last two blocks, pooled and projected) on stored
states: forward, backward and optimiser. The products alone are ``torch.matmul`` of the same shapes,
three for every linear layer (forward, gradient of the input, gradient of the weight) and those of
the attention, on tensors that are there already. Both take turns in one process; the share is the
median of the rounds, in wall and in processor seconds. The second table says where the step's time
goes (``torch.profiler``), by the time of the operators themselves.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
from step_world import CASES, Clock, has_bf16, machine, settings_of, start, write_world
from torch.profiler import ProfilerActivity, profile

from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.item_encoders import build_item_encoder
from recbole_morec.item_encoders.prefix import Prefix
from recbole_morec.training.optim import build_optimizer

WIDTH, INNER, TOKENS, HEADS, BLOCKS, DIM = 768, 3072, 50, 12, 2, 512
GROUPS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn", "aten::linear"),
    "attention": ("scaled_dot_product", "softmax"),
    "normalisation": ("layer_norm",),
    "activation": ("aten::sigmoid", "gelu", "aten::relu", "threshold", "silu"),
    "elementwise": ("aten::mul", "aten::add", "aten::sum", "aten::div", "aten::mean"),
    "copies and casts": ("copy_", "clone", "_to_copy", "fill_", "zero_", "cat"),
    "optimiser": ("adam", "Optimizer"),
}


def products(items: int, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Operands of all products of a step."""
    rows = items * TOKENS
    linear = [(WIDTH, WIDTH)] * 4 + [(WIDTH, INNER), (INNER, WIDTH)]
    made: dict[tuple, torch.Tensor] = {}

    def operand(*shape: int) -> torch.Tensor:
        if shape not in made:
            made[shape] = torch.randn(*shape, dtype=dtype)
        return made[shape]

    pairs = []
    for size_in, size_out in [*linear * BLOCKS, (WIDTH, DIM)]:
        x, weight, gradient = (
            operand(rows, size_in),
            operand(size_out, size_in),
            operand(rows, size_out),
        )
        pairs += [(x, weight.T), (gradient, weight), (gradient.T, x)]
    width = WIDTH // HEADS
    queries, scores = operand(items * HEADS, TOKENS, width), operand(items * HEADS, TOKENS, TOKENS)
    for _ in range(BLOCKS):
        pairs += [(queries, queries.mT), (scores, queries)]  # forward
        pairs += [(queries, queries.mT), (scores.mT, queries)] + [(scores, queries)] * 2
    return pairs


def group_of(name: str) -> str:
    for group, marks in GROUPS.items():
        if any(mark.lower() in name.lower() for mark in marks):
            return group
    return "rest"


def measure(folder: Path, items: int, rounds: int, half: bool) -> None:
    config = settings_of(CASES["vit"], folder)
    torch.manual_seed(1)
    encoder = build_item_encoder(config, MultimodalDataset(config)).train()
    encoder.prefix = Prefix(encoder)
    dtype = torch.bfloat16 if half else torch.float32
    content = {encoder.states_key: torch.randn(items, TOKENS, WIDTH, dtype=dtype)}
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = build_optimizer([{"params": trained, "lr": 1e-4, "weight_decay": 0.0}], config)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            vectors = encoder(content)
        vectors.float().pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    operands = products(items, dtype)
    step()
    clock = Clock()
    for _ in range(rounds):
        with clock.time("products"):
            for one, other in operands:
                torch.matmul(one, other)
        with clock.time("step"):
            step()
    name = "bf16" if half else "fp32"
    print(
        f"\n{name}, {items} items: products {clock.median('products'):.2f} s, step "
        f"{clock.median('step'):.2f} s, share {clock.ratio('products', 'step'):.0%} "
        f"(processor {clock.processor_ratio('products', 'step'):.0%})\n"
    )
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        spent[group_of(event.key)] += event.self_cpu_time_total
    print("| part of the step | share |\n| --- | --- |")
    for group, time in spent.most_common():
        print(f"| {group} | {time / sum(spent.values()):.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="also where it is emulated")
    options = parser.parse_args()
    start(options.threads)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), items=40, windows=20)
        for half in (False, True):
            if half and not (options.bf16 or has_bf16()):
                print("\nthis processor does not multiply bfloat16: not measured")
                continue
            measure(Path(folder), options.items, options.rounds, half)


if __name__ == "__main__":
    main()
