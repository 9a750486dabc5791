"""The table of docs/results.md on the bundled sample: several models and seeds beside the oracle.

``python benchmarks/sample_table.py --seeds 1 2 3 [--models PixelNet SASRec ...]``

Every model runs with its own defaults through the ordinary ``run()``; finished runs are taken from
their run folder, so the script can be stopped and started again. Figures are means over seeds with
the standard deviation.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from recbole_morec.config import MoRecConfig
from recbole_morec.run import run

MODELS = {
    "PixelNet": {},
    "MoRec": {},
    "MoRec image+text": {"item_encoder": "image+text"},
    "SASRec": {},
    "GRU4Rec": {},
    "BPR": {},
    "Pop": {},
}
GROUPS = ("all", "warm", "cold")


def finished(model: str, dataset: str, overrides: dict) -> dict:
    """Results of the run with these settings, from its folder or by running it."""
    config = MoRecConfig(model, dataset, overrides=overrides)
    folder = Path(config["checkpoint_dir"]) / dataset / f"{config.model}-{config.digest()}"
    file = folder / "results.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    return run(model, dataset, overrides=overrides)


def cell(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


def oracles(folder: Path) -> list[str]:
    """Rows of what knows the world, from world.json."""
    figures = json.loads((folder / "world.json").read_text(encoding="utf-8"))["figures"]
    rows = []
    for name, by_group in figures.items():
        groups = ["overall" if group == "all" else group for group in GROUPS]
        cells = [f"{by_group[group]['recall@10']:.4f}" for group in groups]
        rows.append(f"| {name} | " + " | ".join(cells) + " | - | - |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--dataset", default="pixelrec")
    parser.add_argument("--data_path", default="dataset_atomic")
    parser.add_argument("--checkpoint_dir", default="saved")
    options = parser.parse_args()
    lines = ["| model | recall@10 | warm | cold | epochs | seconds |", "| --- |" + " --- |" * 5]
    for name in options.models:
        results = [
            finished(
                name.split()[0],
                options.dataset,
                {
                    **MODELS[name],
                    "seed": seed,
                    "show_progress": False,
                    "data_path": options.data_path,
                    "checkpoint_dir": options.checkpoint_dir,
                },
            )
            for seed in options.seeds
        ]
        cells = [cell([r["test"][group]["recall@10"] for r in results]) for group in GROUPS]
        epochs = statistics.mean(r["training"]["epochs"] for r in results)
        seconds = statistics.mean(r["training"]["seconds"] for r in results)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {epochs:.0f} | {seconds:.0f} |")
    print("\n".join(lines + oracles(Path(options.data_path) / options.dataset)))


if __name__ == "__main__":
    main()
