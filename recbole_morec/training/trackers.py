"""TensorBoard and Weights & Biases, on the first process only."""

from __future__ import annotations

from typing import Any

from recbole_morec.errors import MoRecError
from recbole_morec.training.run_folder import RunFolder


class Trackers:
    """Sends records of the run to the trackers that the settings switch on.

    Raises:
        MoRecError: ``log_wandb`` without the package.
    """

    def __init__(self, config: Any, folder: RunFolder):
        self._tensorboard = None
        self._wandb = None
        if not folder.writes:
            return
        if config["log_tensorboard"]:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder.path))
        if config["log_wandb"]:
            try:
                import wandb
            except ImportError as error:
                raise MoRecError(
                    "log_wandb=True needs Weights & Biases: pip install 'recbole-morec[wandb]'."
                ) from error
            self._wandb = wandb.init(
                project=config["wandb_project"], config=config.plain(), dir=str(folder.path)
            )

    def log(self, record: dict[str, Any]) -> None:
        """Send the numbers of one record, named ``<kind>/<name>``."""
        values = _flat(record["kind"], record)
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, record["step"])
        if self._wandb is not None:
            self._wandb.log(values, step=record["step"])

    def close(self) -> None:
        """Flush and close."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(prefix if name == "groups" else f"{prefix}/{name}", value)
        elif isinstance(value, int | float) and name not in ("epoch", "step"):
            flat[f"{prefix}/{name}"] = float(value)
    return flat
