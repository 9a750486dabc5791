"""run(): settings -> dataset -> model -> trainer -> results; and evaluation of a finished run."""

from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from recbole_morec import parallel, tables
from recbole_morec.config import (
    DATASET_KEYS,
    EVALUATION_KEYS,
    MoRecConfig,
    read_config_files,
)
from recbole_morec.consistency import reported
from recbole_morec.data.dataset import MultimodalDataset, find_dataset_folder
from recbole_morec.errors import CheckpointError, ConfigError
from recbole_morec.evaluation.evaluator import Evaluator, Report
from recbole_morec.item_encoders import training_report
from recbole_morec.models.adapter import ModelAdapter, build_adapter
from recbole_morec.randomness import stream
from recbole_morec.training.checkpoint import find_checkpoint, load_checkpoint
from recbole_morec.training.host_memory import keep_freed_memory
from recbole_morec.training.memory import plan_memory
from recbole_morec.training.run_folder import RunFolder, read_document
from recbole_morec.training.savings import savings
from recbole_morec.training.trainer import Trainer, TrainState
from recbole_morec.transfer.parts import ITEM_PARTS, load_parts
from recbole_morec.transfer.sources import open_source, requested, run_folder_of

log = logging.getLogger(__name__)


@dataclass
class _Parts:
    """What training and evaluation both need."""

    config: MoRecConfig
    accelerator: Accelerator
    dataset: MultimodalDataset
    adapter: ModelAdapter
    evaluator: Evaluator


def run(
    model: str | None = None,
    dataset: str | None = None,
    config_files: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a model on a dataset, test it and write the run folder.

    Args:
        model: name of a model, e.g. ``PixelNet`` or ``SASRec``.
        dataset: name of a folder under ``data_path``.
        config_files: YAML files, later wins.
        overrides: settings that win over everything.

    Returns:
        What ``results.json`` holds; ``results["test"]["all"]["recall@10"]`` is a test metric.

    Raises:
        MoRecError: settings, data or run folder cannot be used; the message says what to do.

    Example:
        >>> from recbole_morec.run import run
        >>> results = run("PixelNet", "pixelrec", overrides={"epochs": 1})  # doctest: +SKIP
    """
    config = MoRecConfig(model, dataset, config_files, overrides)
    accelerator = _accelerator(config)
    find_dataset_folder(config)  # a mistyped name leaves no run folder behind
    name = f"{config.model}-{config.digest()}"
    path = Path(config["checkpoint_dir"]) / config.dataset / name
    folder = RunFolder(path, writes=accelerator.is_main_process)
    handler = folder.log_to_file()
    try:
        return _train(config, accelerator, folder)
    finally:
        if handler is not None:
            logging.getLogger("recbole_morec").removeHandler(handler)
            handler.close()


def evaluate(
    folder: str | Path,
    dataset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    config_files: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Evaluate the best state of a finished run, on its own or on another dataset.

    Args:
        folder: a run folder.
        dataset: another dataset; the model must not hold parameters per item or user.
        overrides: settings that win over the run's own; another ``protocol`` brings its own mask,
            truncation and shortest user.
        config_files: YAML files, as overrides.

    Raises:
        CheckpointError: ``folder`` is no run folder, or its checkpoint does not fit the dataset.
    """
    folder = Path(folder)
    file = folder / "config.yaml"
    if not file.exists():
        raise CheckpointError(
            f"{folder} is no run folder: it holds no config.yaml. Run folders lie under "
            "<checkpoint_dir>/<dataset>/."
        )
    find_checkpoint(folder / "best")
    values = read_config_files([file])
    if dataset and dataset != values.get("dataset"):
        for key in DATASET_KEYS:
            values.pop(key, None)
        values["dataset"] = dataset
    changes = {**read_config_files(config_files), **(overrides or {})}
    _only_evaluation(changes)
    if "protocol" in changes:
        for key in ("history_mask", "min_user_inter", "truncate_history"):
            values.pop(key, None)
    if "valid_metric" not in changes:  # nothing is chosen by it any more
        merged = {**values, **changes}
        values["valid_metric"] = reported(merged["metrics"], merged["topk"])[0]
    config = MoRecConfig(overrides={**values, **changes})
    _take_encoder(config, folder)
    accelerator = _accelerator(config)
    parts = _build(config, accelerator, load_weights=False)
    parts.adapter.model.to(accelerator.device)
    state, extra = load_checkpoint(folder / "best", model=parts.adapter.model)
    if parts.adapter.bound_to_ids and state.get("tokens") != parts.dataset.token_digest():
        raise CheckpointError(
            f"{folder} holds parameters per item or user of the dataset that it was trained on; "
            f"{parts.dataset.folder} numbers users and items otherwise. Only models on item "
            "content move to other datasets."
        )
    parts.adapter.load_extra_state(extra)
    if parts.adapter.stored is not None:
        parts.adapter.stored.builds = False  # all items are encoded once
    parts.adapter.model.eval()
    report = parts.evaluator.evaluate(parts.adapter.scorer(accelerator.device), "test")
    if accelerator.is_main_process:
        tables.print_report(f"{folder.name} on {config.dataset}: test", report)
    return {"dataset": config.dataset, "test": report.metrics, "users": report.users}


def _take_encoder(config: MoRecConfig, folder: Path) -> None:
    """Build the item encoder of a run folder, with the tokenizer that its vocabulary belongs to."""
    if (folder / "encoder.json").exists():
        config["item_encoder_architecture"] = read_document(folder / "encoder.json")
    if (folder / "tokenizer").exists():
        config["tokenizer"] = str((folder / "tokenizer").resolve())


def _take_encoder_of_source(config: MoRecConfig, source: Path) -> None:
    """As :func:`_take_encoder`, where the run that is loaded has the encoder that is asked for."""
    folder = run_folder_of(source)
    if folder is not None:
        theirs = read_config_files([folder / "config.yaml"])
        if theirs.get("item_encoder") == config["item_encoder"]:
            _take_encoder(config, folder)


def _only_evaluation(changes: Mapping[str, Any]) -> None:
    """Refuse settings that a trained model has already decided."""
    decided = [key for key in changes if key not in EVALUATION_KEYS]
    if decided:
        raise ConfigError(
            [
                f"{key}: the run has decided this; evaluate takes settings of data, protocol and "
                "evaluation only. Train a run with it instead."
                for key in decided
            ]
        )


def _train(config: MoRecConfig, accelerator: Accelerator, folder: RunFolder) -> dict[str, Any]:
    main = accelerator.is_main_process
    keeps = config["keep_memory"] and not (config.reads_content and config["fit_memory"])
    keeps = bool(keeps) and accelerator.device.type == "cpu" and keep_freed_memory()
    for warning in config.warnings:
        log.warning(warning)
    if config["resume"] and not _can_resume(folder):
        log.info("nothing to resume in %s: starting afresh", folder.path)
        config["resume"] = False
    folder.write_config(config.plain())
    loads = requested(config["load"]) if config.reads_content and config["load"] else {}
    if not config.multimodal:  # the rest of a stock model has no parts that others share
        loads = {part: loads[part] for part in ITEM_PARTS if part in loads}
    if "item_encoder" in loads:
        _take_encoder_of_source(config, loads["item_encoder"])
    parts = _build(config, accelerator, load_weights="item_encoder" not in loads)
    if config["resume"]:  # before anything is made from weights, such as stored states
        load_checkpoint(folder.last, model=parts.adapter.model)
    elif loads:
        _load(parts, loads, by_name=isinstance(config["load"], Mapping))
    encoder = parts.adapter.item_encoder
    if encoder is not None:
        folder.write_encoder(encoder)
        log.info("item encoder: %s", training_report(encoder))
    parts.adapter.model.to(accelerator.device)
    parts.adapter.prepare()  # what a step encodes, and keeps, depends on it
    plan = plan_memory(parts.adapter, accelerator, config)
    trainer = Trainer(config, parts.adapter, parts.evaluator, accelerator, folder)
    if trainer.adapter.trains:
        log.info("speed: %s", savings(parts.adapter, plan, trainer.optimizer, config, keeps))
    if not config["resume"]:
        folder.start_afresh()  # only now: bad settings or data shall not cost an earlier run
    if main:
        tables.print_start(config, parts.dataset, parts.adapter, folder.path)
    state = trainer.fit()
    trainer.load_best()
    reports = {phase: trainer.evaluate(phase) for phase in ("valid", "test")}
    results = _results(parts, state, reports)
    folder.write_results(results)
    if main:
        tables.print_report(f"{config.model} on {config.dataset}: test", reports["test"])
        log.info("run folder: %s", folder.path)
    return results


def _load(parts: _Parts, loads: Mapping[str, Path], by_name: bool) -> None:
    """Fill parts of the model from other runs or published checkpoints, and say what was done."""
    model = parts.adapter.model
    state = model.state_dict()
    opened = {path: open_source(path, state) for path in set(loads.values())}
    sources = {part: opened[path] for part, path in loads.items()}
    done = load_parts(
        model, sources, parts.dataset.token_digest(), parts.adapter.rows_by_id(), by_name
    )
    if parts.accelerator.is_main_process:
        tables.print_loaded(done)


def _build(config: MoRecConfig, accelerator: Accelerator, load_weights: bool) -> _Parts:
    config["device"] = accelerator.device
    dataset = MultimodalDataset(config)
    _announce(dataset)
    set_seed(stream(config["seed"], "init") % 2**32)
    adapter = build_adapter(config, dataset, load_weights)
    evaluator = Evaluator(config, dataset, accelerator.device)
    return _Parts(config, accelerator, dataset, adapter, evaluator)


def _accelerator(config: MoRecConfig) -> Accelerator:
    if parallel.world_size() == 1:
        AcceleratorState._reset_state()  # an earlier run of this process may have had another
    cpu = not config["use_gpu"] or not torch.accelerator.is_available()
    if cpu and config["mixed_precision"] == "fp16":
        raise ConfigError(
            "mixed_precision=fp16 needs a GPU; on a CPU use mixed_precision=bf16, or 'no'."
        )
    # Of torch, about what accelerate passes on; what it proposes changes what is synchronised.
    warnings.filterwarnings("ignore", r".*broadcast_buffers. is deprecated", FutureWarning)
    return Accelerator(
        cpu=cpu,
        mixed_precision=config["mixed_precision"],
        # Buffers (feature matrices, graphs) are equal in all processes from the start.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def _announce(dataset: MultimodalDataset) -> None:
    if (dataset.folder / "world.json").exists():
        log.info(
            "%s is the bundled sample, a small synthetic world, not the published dataset. For the "
            "real PixelRec: download its interactions, item table and covers, then `recbole-morec "
            "convert folder --input <download> --interactions Pixel200K.csv --items <item table> "
            "--images cover --output <data_path>/<name>` and --dataset=<name>.",
            dataset.folder,
        )
    if dataset.splits.left_out or dataset.splits.train_only:
        log.info(
            "protocol %s: %d users are left out (too short), %d train without being evaluated",
            dataset.protocol.name, dataset.splits.left_out, dataset.splits.train_only,
        )  # fmt: skip


def _can_resume(folder: RunFolder) -> bool:
    try:
        find_checkpoint(folder.last)
    except CheckpointError:
        if folder.holds_a_run:
            raise CheckpointError(
                f"{folder.path} has no checkpoint in last/ to go on from, but it holds an earlier "
                "run. Train without --resume to replace that run, or evaluate it with "
                f"`recbole-morec evaluate {folder.path}`."
            ) from None
        return False
    return True


def _results(parts: _Parts, state: TrainState, reports: dict[str, Report]) -> dict[str, Any]:
    config = parts.config
    trained = sum(p.numel() for p in parts.adapter.model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in parts.adapter.model.parameters() if not p.requires_grad)
    seconds = max(state.seconds, 1e-9)
    users = parts.dataset.splits.trained_users * state.epoch
    return {
        "model": config.model,
        "item_encoder": config["item_encoder"] if config.reads_content else "id",
        "dataset": config.dataset,
        "seed": config["seed"],
        "protocol": config["protocol"],
        "fingerprint": parts.dataset.fingerprint(),
        "parameters": {"trained": trained, "frozen": frozen},
        "training": {
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "seconds": round(state.seconds, 1),
            "users_per_second": round(users / seconds, 1),
            "items_per_second": round(state.items * parallel.world_size() / seconds, 1),
            "processes": parallel.world_size(),
        },
        **{phase: report.metrics for phase, report in reports.items()},
        "users": {phase: report.users for phase, report in reports.items()},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("torch", "timm", "transformers", "accelerate", "recbole")},
        },
    }
