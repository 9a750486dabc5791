"""MoRecConfig: RecBole's Config with our property chain, strict keys and all errors at once.

Property chain, later wins: RecBole's defaults (overall, model, dataset),
``properties/overall.yaml``, ``properties/multimodal.yaml`` (our models; of RecBole's with an item
encoder: what concerns that, then ``properties/stock_content.yaml``),
``properties/model/<Model>.yaml``, the dataset's own ``<data_path>/<name>/<name>.yaml``,
``properties/dataset/<name>.yaml``, ``properties/item_encoder/<encoder>.yaml``, the user's files in
order, the command line. A dataset may thus say what suits it, and only the user overrules it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from recbole.config import Config
from recbole.utils import ModelType

from recbole_morec import settings
from recbole_morec.consistency import IMAGE_TRANSFORMS, Consistency, as_list, read_by
from recbole_morec.errors import ConfigError, suggest
from recbole_morec.evaluation import protocol
from recbole_morec.models.lookup import find_model, is_ours, our_models

PACKAGE = Path(__file__).resolve().parent
# In a wheel the folder lies inside the package, in a clone beside it.
PROPERTIES = next(p for p in (PACKAGE / "properties", PACKAGE.parent / "properties") if p.is_dir())

# Settings that change where or how a run happens but none of its numbers.
_NOT_IN_HASH = {
    "checkpoint_dir", "config_files", "data_path", "device", "encode_chunk", "eval_batch_size",
    "eval_step_log", "fit_memory", "gpu_id", "image_cache_gb", "keep_memory", "local_rank",
    "log_interval", "log_tensorboard", "log_wandb", "micro_batch", "resume", "share_encoding",
    "show_progress", "single_spec", "state", "text_store", "use_gpu", "wandb_project", "worker",
}  # fmt: skip

# Settings that describe a dataset; a run evaluated on another dataset takes that one's.
DATASET_KEYS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "image_field", "text_fields")

# Settings that `evaluate` may change on a trained run.
EVALUATION_KEYS = {
    *DATASET_KEYS, "data_path", "dataset", "protocol", "min_user_inter", "truncate_history",
    "history_mask", "catalogue", "eval_mode", "eval_args", "missing_content", "bad_images",
    "image_cache_gb", "text_store", "worker", "use_gpu", "mixed_precision", "show_progress",
    "metrics", "topk", "valid_metric", "eval_batch_size", "metric_decimal_place",
    "popularity_buckets",
}  # fmt: skip

# RecBole's filters change the data, which is the converter's work.
_FILTERS = {
    "user_inter_num_interval", "item_inter_num_interval", "val_interval", "threshold",
    "rm_dup_inter", "filter_inter_by_user_or_item",
}  # fmt: skip
_SUBKEYS = {
    "eval_args": {"split", "order", "group_by", "mode"},
    "train_neg_sample_args": {"distribution", "sample_num", "alpha", "dynamic", "candidate_num"},
    "clip_grad_norm": {"max_norm"},
}

_UNLISTED = {"eta", "beta"}  # read by RecBole's crop and reorder transforms, named in no yaml

_ITEM_KEYS = frozenset(settings.ItemEncoderSettings.model_fields)

# RecBole settings whose work this package does in its own way; set by a user they get a warning.
_REPLACED = {
    "gpu_id": "choose devices with CUDA_VISIBLE_DEVICES and `accelerate launch`",
    "load_col": "all columns that a model needs are read",
    "save_dataset": "datasets are read from their folder each time",
    "save_dataloaders": "batches are built on the fly",
    "enable_amp": "use mixed_precision=bf16 or fp16",
    "enable_scaler": "mixed_precision=fp16 scales by itself",
    "benchmark_filename": "splits are made by the protocol",
    "split_to": "splits are made by the protocol",
    "reproducibility": "every run is reproducible",
    "repeatable": "the protocol says which items may be recommended again (history_mask)",
}


class MoRecConfig(Config):
    """Resolved settings of a run; ``config[key]`` as in RecBole.

    Args:
        model: name of a model of ours or of RecBole (``recbole:NAME`` forces RecBole's).
        dataset: name of a folder under ``data_path``.
        config_files: YAML files, later wins.
        overrides: settings from the command line or code; win over everything.

    Attributes:
        multimodal: the model is one of ours.
        reads_content: it has an item encoder: one of ours, or of RecBole's with ``item_encoder``.
        image_transform: how images are normalised in a model of RecBole's with an item encoder.
        warnings: sentences for the log, one per setting that is understood but not used.

    Raises:
        ConfigError: all problems of all settings in one error.
    """

    def __init__(
        self,
        model: str | None = None,
        dataset: str | None = None,
        config_files: Sequence[str | Path] = (),
        overrides: Mapping[str, Any] | None = None,
    ):
        self._problems: list[str] = []
        self.warnings: list[str] = []
        self.image_transform = "native"
        overrides = dict(overrides or {})
        files = _read_files(config_files, self._problems)
        model = model or overrides.pop("model", None) or files.get("model")
        dataset = dataset or overrides.pop("dataset", None) or files.get("dataset")
        if not model:
            self._problems.append(
                "No model is named: add --model=PixelNet (or another; see --help)."
            )
        if not dataset:
            self._problems.append(
                "No dataset is named: add --dataset=pixelrec (or another folder)."
            )
        elif Path(str(dataset)).name != str(dataset):
            self._problems.append(
                f"dataset={dataset!r}: a dataset is named, not given as a path; use "
                f"--data_path={Path(str(dataset)).parent} --dataset={Path(str(dataset)).name}."
            )
        if self._problems:
            raise ConfigError(self._problems)
        self._user = {**files, **overrides, "model": model, "dataset": dataset}
        if self._user.get("mixed_precision") is False:
            self._user["mixed_precision"] = "no"  # which YAML reads as False
        try:
            super().__init__(model=model, dataset=dataset)
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"RecBole refuses these settings: {error}") from error

    # --- hooks of RecBole's Config -------------------------------------------------------------

    def _load_config_files(self, file_list: Any) -> dict[str, Any]:
        return self._user

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}  # RecBole would evaluate sys.argv as Python; cli.py reads it instead

    def _get_model_and_dataset(self, model: str, dataset: str) -> tuple[str, type, str]:
        model_class = find_model(model)
        return model_class.__name__, model_class, dataset

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(
            model if not is_ours(model_class) else "", model_class, dataset
        )
        self.multimodal = is_ours(model_class)
        self.reads_content = self.multimodal or self._takes_item_encoder(model_class)
        known = set(self.internal_config_dict)
        chain = [PROPERTIES / "overall.yaml"]
        if self.multimodal:
            chain += [PROPERTIES / "multimodal.yaml", PROPERTIES / "model" / f"{model}.yaml"]
        for path in chain:
            known |= self._add(path)
        if self.reads_content and not self.multimodal:
            self._split_transform()
            known |= self._add(PROPERTIES / "multimodal.yaml", _ITEM_KEYS)
            known |= self._add(PROPERTIES / "stock_content.yaml")
        data_root = self._user.get("data_path") or self.internal_config_dict["data_path"]
        own = Path(data_root) / dataset / f"{dataset}.yaml"
        from_dataset = [own, PROPERTIES / "dataset" / f"{dataset}.yaml"]
        for path in from_dataset:
            values = _read_yaml(path)
            for_ours = values.pop("multimodal", None) or {}
            if not isinstance(for_ours, dict):
                self._problems.append(f"multimodal in {path}: must hold `key: value` lines.")
                for_ours = {}
            if self.reads_content:
                values |= {
                    key: _number(value)
                    for key, value in for_ours.items()
                    if self.multimodal or key in _ITEM_KEYS
                }
            self._check_keys(values, known, str(path))
            self.internal_config_dict.update(values)
        if self.reads_content:
            self._resolve_item_encoder()
        else:  # a dataset's yaml names one for our models
            self.internal_config_dict.pop("item_encoder", None)
        self._check_keys(self._user, known, "")
        self.internal_config_dict["MODEL_TYPE"] = model_class.type

    def _set_default_parameters(self) -> None:
        values = self.final_config_dict
        self._problems += _wrong_subkeys(self._user)
        known = values["protocol"] in protocol.PROTOCOLS  # else its own problem is enough
        values.update(protocol.resolve(values if known else {**values, "protocol": "pixelrec"}))
        values["metrics"] = as_list(values["metrics"])
        values["topk"] = as_list(values["topk"])
        mode = _eval_args(self._user).get("mode")
        if mode is not None and "eval_mode" not in self._user:
            values["eval_mode"] = mode  # RecBole's spelling
        converted, problems = settings.check(
            values, multimodal=self.multimodal, item_encoder=self.reads_content
        )
        values.update(converted)
        checks = Consistency(
            self, values, self._user, self.internal_config_dict, sound=not problems
        )
        self._problems += problems + checks.problems()
        self.warnings += checks.warnings
        if self._problems:
            raise ConfigError(self._problems)
        self._prepare_for_recbole(values)
        self.data_root = values["data_path"]
        super()._set_default_parameters()
        # RecBole reads ml-100k from its own wheel; a folder of the user's comes first.
        if self.dataset != "ml-100k" or (Path(self.data_root) / self.dataset).is_dir():
            values["data_path"] = os.path.join(self.data_root, self.dataset)

    def _init_device(self) -> None:
        # RecBole would set CUDA_VISIBLE_DEVICES and start NCCL; Accelerate chooses the device.
        self.final_config_dict.update(device=torch.device("cpu"), single_spec=True, local_rank=0)

    # --- our parts -----------------------------------------------------------------------------

    def _takes_item_encoder(self, model_class: type) -> bool:
        """Whether a model of RecBole gets an item encoder; ``item_encoder: ~`` is none."""
        name = self._user.get("item_encoder")
        if name is not None and model_class.type == ModelType.SEQUENTIAL:
            return True
        if name is not None:
            self._problems.append(
                f"item_encoder={name}: of RecBole's own models only sequential ones take one "
                f"(docs/recbole-models.md), and {model_class.__name__} is none. Leave item_encoder "
                "out, or use a model of ours (PixelNet, MoRec, VBPR, ...)."
            )
        self._user.pop("item_encoder", None)
        self.external_config_dict = self._user
        return False

    def _split_transform(self) -> None:
        """``transform`` is RecBole's, of the rows of a batch, or ours, of images; where it is ours,
        RecBole's stays as the model has it."""
        if self._user.get("transform") in IMAGE_TRANSFORMS:
            self.image_transform = self._user.pop("transform")
            self.external_config_dict = self._user

    def _add(self, path: Path, only: Iterable[str] | None = None) -> set[str]:
        values = _read_yaml(path)
        if only is not None:
            values = {key: value for key, value in values.items() if key in only}
        self.internal_config_dict.update(values)
        return set(values)

    def _resolve_item_encoder(self) -> None:
        """Replace ``image``, ``text``, ``image+text`` by names and add the encoder's own yaml."""
        values = {**self.internal_config_dict, **self._user}
        chosen = values["item_encoder"]
        listed = [chosen] if isinstance(chosen, str) else chosen
        if (
            not listed
            or not isinstance(listed, list)
            or not all(isinstance(name, str) and name for name in listed)
        ):
            self._problems.append(
                f"item_encoder={chosen!r}: give a name (image, tiny_vit, resnet50, ...) or a list "
                "of names."
            )
            raise ConfigError(self._problems)
        parts = chosen.split("+") if isinstance(chosen, str) else list(chosen)
        stands_for = {"image": values["image_encoder"], "text": values["text_encoder"]}
        names = [stands_for.get(part, part) for part in parts]
        for name in names:
            self._add(PROPERTIES / "item_encoder" / f"{str(name).replace('/', '_')}.yaml")
        resolved = names[0] if len(names) == 1 else names
        self.internal_config_dict["item_encoder"] = resolved
        if "item_encoder" in self._user:
            self._user["item_encoder"] = resolved
        self.external_config_dict = self._user

    def _check_keys(self, values: Mapping[str, Any], known: set[str], source: str) -> None:
        known = known | set(settings.RunSettings.model_fields)
        known |= {"model", "dataset", "config_files", "eval_args"} | _UNLISTED
        known |= {key for group in self.parameters.values() for key in group}
        others = _keys_of_other_models()
        where = f" in {source}" if source else ""
        for key in values:
            if key in _FILTERS and values[key] is not None:
                self._problems.append(
                    f"{key}{where}: datasets are not filtered while they are read; filter once, "
                    "when converting (recbole-morec convert --help)."
                )
            elif key in _REPLACED and source:
                continue  # a dataset's yaml serves stock RecBole too
            if key in _REPLACED:
                self.warnings.append(f"{key}{where} has no effect here: {_REPLACED[key]}.")
            elif key not in known and key in others:
                if not source:  # a dataset's yaml serves all models; a user's setting is meant
                    self.warnings.append(
                        f"{key} has no effect on {self._user['model']}; {read_by(others[key])}."
                    )
            elif key not in known:
                self._problems.append(f"{key}{where}: no such setting.{suggest(key, known)}")

    def _prepare_for_recbole(self, values: dict[str, Any]) -> None:
        """Give RecBole's own checks what they ask for."""
        args = _eval_args(values)
        unsupported = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
        for key, only in unsupported.items():
            asked = _eval_args(self._user).get(key, only)
            if asked != only:
                raise ConfigError(
                    f"eval_args.{key}={asked}: only {only} is supported; protocols split each "
                    "history by leaving its newest items out."
                )
        values["eval_args"] = {**args, **unsupported, "mode": "full"}
        if values["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            values["repeatable"] = True
            if values.get("loss_type") == "CE":
                values["train_neg_sample_args"] = None

    # --- views ---------------------------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """All settings as JSON-able values, sorted by key; as ``config_files`` they give the same
        run again."""
        skip = {"device", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "eval_args"}
        skip |= {
            "config_files",
            "resume",
            "single_spec",
            "local_rank",
            "valid_neg_sample_args",
            "test_neg_sample_args",
        }
        values = {**self.final_config_dict, "data_path": self.data_root}
        if self.image_transform != "native":
            values["transform"] = self.image_transform  # RecBole's is the model's own
        if not self.multimodal and self.model in our_models():
            values["model"] = f"recbole:{self.model}"  # or the name would mean ours
        if (values["train_neg_sample_args"] or {}).get("distribution") == "none":
            values["train_neg_sample_args"] = None  # how RecBole spells it once resolved
        return {
            key: json.loads(json.dumps(value, default=str))
            for key, value in sorted(values.items())
            if key not in skip and key not in _REPLACED and key not in _FILTERS
        }

    def digest(self) -> str:
        """Hash of every setting that can change a number; names the run folder."""
        values = {k: v for k, v in self.plain().items() if k not in _NOT_IN_HASH}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def parse_value(text: str) -> Any:
    """A command-line value as YAML reads it; ``1e-4`` is a number, ``None`` and ``~`` are null."""
    if text == "None":
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return _number(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, found a {type(values).__name__}.")
    wrong = [key for key in values if not isinstance(key, str)]
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]!r} is no name of a setting.")
    return {key: _number(value) for key, value in values.items()}


def read_config_files(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Settings of YAML files, later wins.

    Raises:
        ConfigError: a file is missing or no YAML.
    """
    problems: list[str] = []
    values = _read_files(paths, problems)
    if problems:
        raise ConfigError(problems)
    return values


def _read_files(paths: Sequence[str | Path], problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path in map(Path, paths):
        if not path.is_file():
            problems.append(f"config_files: {path} does not exist.")
            continue
        try:
            values |= _read_yaml(path)
        except ConfigError as error:
            problems += error.problems
    return values


def _eval_args(values: Mapping[str, Any]) -> Mapping[str, Any]:
    args = values.get("eval_args") or {}
    return args if isinstance(args, Mapping) else {}


def _wrong_subkeys(values: Mapping[str, Any]) -> list[str]:
    """Problems of the settings that hold settings."""
    problems = []
    for key, known in _SUBKEYS.items():
        value = values.get(key)
        if key == "eval_args" and value is not None and not isinstance(value, Mapping):
            problems.append(f"eval_args={value!r}: must be of the kind {{mode: uni100}}.")
        if not isinstance(value, Mapping):
            continue
        for name in value:
            if name not in known:
                space = " (a colon needs a space after it)" if ":" in str(name) else ""
                problems.append(
                    f"{key}: there is no {name!r} in it{space}.{suggest(str(name), known)} "
                    f"Known: {', '.join(sorted(known))}."
                )
        if key == "clip_grad_norm" and "max_norm" not in value:
            problems.append("clip_grad_norm: give a number, or {max_norm: <number>}.")
    mode = _eval_args(values).get("mode")
    if mode is not None and not isinstance(mode, str):
        problems.append(
            f"eval_args.mode={mode!r}: one mode serves validation and test; give for example "
            "{mode: uni100}."
        )
    return problems


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as text; RecBole and every reader mean a number."""
    if isinstance(value, str) and any(character.isdigit() for character in value):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _keys_of_other_models() -> dict[str, set[str]]:
    """Setting -> models whose yaml in RecBole or here names it."""
    import recbole

    found: dict[str, set[str]] = {}
    folders = [Path(recbole.__file__).parent / "properties" / "model", PROPERTIES / "model"]
    for folder in folders:
        for path in folder.glob("*.yaml"):
            for line in path.read_text(encoding="utf-8").splitlines():
                key, colon, _ = line.partition(":")
                if colon and key.strip() == key and key.isidentifier():
                    found.setdefault(key, set()).add(path.stem)
    for key in settings.MultimodalSettings.model_fields:
        found.setdefault(key, set()).add("PixelNet")
    return found
