"""The run folder: what a run was, what it measured, and its checkpoints."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from recbole_morec.errors import CheckpointError, MoRecError

log = logging.getLogger(__name__)


class RunFolder:
    """``<checkpoint_dir>/<dataset>/<model>-<hash of the settings>/``.

    Holds ``config.yaml`` (resolved settings), ``encoder.json`` (the item encoder's architecture)
    and ``tokenizer/``, ``metrics.jsonl``, ``results.json``, ``run.log``, ``best/`` and ``last/``
    (checkpoints) and TensorBoard events.

    Args:
        path: the folder.
        writes: False in all processes but the first.

    Raises:
        MoRecError: the folder cannot be written.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path = path
        self.writes = writes
        if not writes:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise MoRecError(
                f"The run folder {path} cannot be written ({error.strerror}); choose another place "
                "with --checkpoint_dir=<folder>."
            ) from error

    @property
    def best(self) -> Path:
        """Checkpoint with the best validation value."""
        return self.path / "best"

    @property
    def last(self) -> Path:
        """Checkpoint after the newest epoch, with optimiser state."""
        return self.path / "last"

    @property
    def holds_a_run(self) -> bool:
        """Whether an earlier run has left results or a checkpoint."""
        return (self.path / "results.json").exists() or self.best.exists()

    def start_afresh(self) -> None:
        """Forget what an earlier run with the same settings measured and learned."""
        if self.writes:
            if self.holds_a_run:
                log.info("replacing the earlier run in %s", self.path)
            events = [file.name for file in self.path.glob("events.out.tfevents.*")]
            for name in ("metrics.jsonl", "results.json", *events):
                (self.path / name).unlink(missing_ok=True)
            for name in ("best", "last", ".best.old", ".last.old"):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def write_config(self, values: dict[str, Any]) -> None:
        """Write the resolved settings."""
        self._write("config.yaml", yaml.safe_dump(values, allow_unicode=True))

    def write_encoder(self, encoder: Any) -> None:
        """Write what is needed to build the item encoder again without any download: its
        architecture and, for texts, the tokenizer that its vocabulary belongs to."""
        self._write("encoder.json", json.dumps(encoder.architecture(), indent=2, default=str))
        for need in encoder.needs:
            if self.writes and hasattr(need, "tokenizer"):
                need.tokenizer.save_pretrained(self.path / "tokenizer")

    def write_results(self, results: dict[str, Any]) -> None:
        """Write the final results."""
        self._write("results.json", json.dumps(results, indent=2))

    def log_metrics(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        if self.writes:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Take back the lines of ``metrics.jsonl`` that a resumed run will write again."""
        file = self.path / "metrics.jsonl"
        if self.writes and file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            self._write("metrics.jsonl", "".join(line for line in lines if _up_to(line, step)))

    def log_to_file(self) -> logging.Handler | None:
        """Send the package's log to ``run.log`` too; the caller removes the handler."""
        if not self.writes:
            return None
        handler = logging.FileHandler(self.path / "run.log", mode="a", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("recbole_morec")
        if logger.level == logging.NOTSET:  # used as a library; the command line has set it
            logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        return handler

    def _write(self, name: str, text: str) -> None:
        if self.writes:
            partial = self.path / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, self.path / name)


def read_document(file: Path) -> dict[str, Any]:
    """Read a JSON file of a run folder.

    Raises:
        CheckpointError: it is absent or holds something else.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}). Train the run again.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} is damaged: it holds no JSON object. Train the run again.")
    return document


def _up_to(line: str, step: int) -> bool:
    """Whether a line of ``metrics.jsonl`` is whole and of this step or an earlier one."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # a run that was killed may have left half a line
