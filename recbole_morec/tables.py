"""Tables for a person: the start of a run, its results, and several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from recbole_morec.errors import CheckpointError
from recbole_morec.training.run_folder import read_document

if TYPE_CHECKING:
    from recbole_morec.config import MoRecConfig
    from recbole_morec.data.dataset import MultimodalDataset
    from recbole_morec.evaluation.evaluator import Report
    from recbole_morec.models.adapter import ModelAdapter
    from recbole_morec.transfer.parts import Loaded


def print_start(
    config: MoRecConfig, dataset: MultimodalDataset, adapter: ModelAdapter, folder: Path
) -> None:
    """What is about to run: data, model, parameters."""
    table = Table(title=f"{config.model} on {config.dataset}", title_justify="left")
    table.add_column("data")
    table.add_column("", justify="right")
    table.add_column("model")
    table.add_column("", justify="right", overflow="fold")
    left = [(name, f"{count:,}") for name, count in dataset.summary().items()]
    parameters = list(adapter.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    megabytes = sum(p.numel() * p.element_size() for p in parameters) / 2**20
    right = [
        ("protocol", f"{dataset.protocol.name} ({dataset.fingerprint()})"),
        ("history length L", str(dataset.protocol.max_length)),
    ]
    if config.reads_content:
        encoder = config["item_encoder"]
        joined = encoder if isinstance(encoder, str) else " + ".join(encoder)
        right.append(("item encoder", joined))
    if config.multimodal:
        right += [
            *((key.replace("_", " "), config[key]) for key in adapter.model.chooses),
        ]
    right += [
        ("parameters trained", f"{trained:,}"),
        ("parameters frozen", f"{total - trained:,}"),
        ("memory of parameters", f"{megabytes:.1f} MiB"),
        ("run folder", str(folder)),
    ]
    for row in range(max(len(left), len(right))):
        cells = [*(left[row] if row < len(left) else ("", ""))]
        cells += [*(right[row] if row < len(right) else ("", ""))]
        table.add_row(*cells)
    _console().print(table)


def print_loaded(done: Loaded) -> None:
    """What a transfer took over, and what it left."""
    table = Table(title="loaded", title_justify="left")
    table.add_column("part")
    table.add_column("tensors", justify="right")
    table.add_column("", overflow="fold")
    for part, names in done.loaded.items():
        table.add_row(part, str(len(names)), "")
    table.add_row("fresh in the model", str(len(done.fresh)), _shortened(done.fresh))
    table.add_row("unused of the source", str(len(done.unused)), _shortened(done.unused))
    _console().print(table)


def _shortened(names: Sequence[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def print_report(title: str, report: Report) -> None:
    """Metrics by group of users."""
    names = list(report.metrics["all"])
    table = Table(title=title, title_justify="left")
    table.add_column("users")
    table.add_column("count", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for group, metrics in report.metrics.items():
        values = [f"{metrics[name]:.4f}" for name in names]
        table.add_row(group, f"{report.users[group]:,}", *values)
    _console().print(table)


def compare(folders: Sequence[str | Path], markdown: bool = False) -> str:
    """Several runs side by side, best first.

    Args:
        folders: run folders (a folder above them stands for all runs in it).
        markdown: return a Markdown table instead of drawing one.

    Returns:
        The table as Markdown.

    Raises:
        CheckpointError: a folder holds no finished run.
    """
    runs = [run for folder in folders for run in _finished_runs(Path(folder))]
    main = next(iter(runs[0][1]["test"]["all"]))
    runs.sort(key=lambda run: -run[1]["test"]["all"].get(main, 0.0))
    metrics = list(runs[0][1]["test"]["all"])
    header = ["run", "item encoder", "seed", *metrics, f"warm {main}", f"cold {main}"]
    header += ["parameters", "epochs", "time", "users/s"]
    rows = [_row(folder, results, metrics, main) for folder, results in runs]
    text = _markdown(header, rows)
    fingerprints = {results["fingerprint"] for _, results in runs}
    note = ""
    if len(fingerprints) > 1:
        note = (
            "These runs differ in dataset or protocol (fingerprints "
            f"{', '.join(sorted(fingerprints))}): their numbers must not be compared."
        )
    if markdown:
        print(text + (f"\n{note}\n" if note else ""))
        return text
    table = Table()
    for name in header:
        table.add_column(name, justify="left" if name in header[:2] else "right")
    for row in rows:
        table.add_row(*row)
    console = _console()
    console.print(table)
    if note:
        console.print(note, style="bold red")
    return text


def _console() -> Console:
    """The terminal; a pipe or file gets lines long enough for whole tables."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _finished_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    files = [folder / "results.json"]
    if not files[0].exists():
        files = sorted(folder.rglob("results.json"))
    if not files:
        raise CheckpointError(
            f"{folder} holds no finished run (no results.json). Run folders lie under "
            "<checkpoint_dir>/<dataset>/."
        )
    return [(file.parent, _results(file)) for file in files]


def _results(file: Path) -> dict[str, Any]:
    results = read_document(file)
    missing = {"model", "seed", "test", "training", "fingerprint", "parameters"} - results.keys()
    if missing:
        raise CheckpointError(
            f"{file} is no result of a run: {', '.join(sorted(missing))} is missing. Run again."
        )
    return results


def _row(folder: Path, results: dict[str, Any], metrics: list[str], main: str) -> list[str]:
    encoder = results["item_encoder"]
    groups = results["test"]
    training = results["training"]
    return [
        folder.resolve().name,
        encoder if isinstance(encoder, str) else " + ".join(encoder),
        str(results["seed"]),
        *(f"{groups['all'].get(name, float('nan')):.4f}" for name in metrics),
        *(f"{groups[g][main]:.4f}" if main in groups.get(g, ()) else "-" for g in ("warm", "cold")),
        f"{results['parameters']['trained']:,}",
        str(training["epochs"]),
        f"{training['seconds']:.0f} s",
        f"{training['users_per_second']:.0f}",
    ]


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
