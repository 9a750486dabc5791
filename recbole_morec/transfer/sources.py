"""Where a transfer's tensors come from: a run folder or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recbole_morec.errors import CheckpointError
from recbole_morec.training.checkpoint import read_checkpoint
from recbole_morec.transfer.parts import PARTS, Source


def requested(load: str | Mapping[str, str]) -> dict[str, Path]:
    """Part -> path, of the setting ``load``: a path for all parts, or a path by part."""
    paths = load if isinstance(load, Mapping) else dict.fromkeys(PARTS, load)
    return {part: Path(path).expanduser() for part, path in paths.items()}


def run_folder_of(path: Path) -> Path | None:
    """The run folder that ``path`` is, or that it is a checkpoint of; ``None`` for a file."""
    folders = (path, path.parent) if path.is_dir() else ()
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def open_source(path: Path) -> Source:
    """Read the tensors at ``path``: a run folder (its best state) or a checkpoint folder.

    Raises:
        CheckpointError: there is nothing there, or it cannot be read safely.
    """
    if not path.is_dir():
        raise CheckpointError(f"load: {path} does not exist; give a run folder.")
    tensors, state = read_checkpoint(path / "best" if run_folder_of(path) == path else path)
    return Source(str(path), tensors, tokens=state.get("tokens"))
