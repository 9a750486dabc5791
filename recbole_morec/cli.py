"""The command line: training by default, verbs beside it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

import recbole_morec
from recbole_morec.errors import ConfigError, MoRecError, suggest

_USAGE = """\
Train and test a model:
  recbole-morec --model=PixelNet --dataset=pixelrec [--config_files a.yaml b.yaml] [--key=value ...]

Other verbs:
  recbole-morec evaluate RUN [--dataset=NAME] [--key=value ...]   test a finished run again
  recbole-morec compare RUN [RUN ...] [--markdown]                several runs side by side
  recbole-morec convert SOURCE --input DIR --output DIR           make a dataset folder
  recbole-morec sample --output DIR [--seed=N] [--overwrite]      make the bundled sample again
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for an error that the user can mend)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _log_to_console()
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MoRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"recbole-morec {recbole_morec.__version__}")
        return 0
    if arguments[0].startswith("-"):
        return _train(arguments)
    verb, rest = arguments[0], arguments[1:]
    if verb not in _VERBS:
        raise ConfigError(
            f"{verb!r} is no verb.{suggest(verb, _VERBS)} Verbs: {', '.join(_VERBS)}; "
            "without a verb, --model=... --dataset=... trains."
        )
    return _VERBS[verb](rest)


def _train(arguments: list[str]) -> int:
    from recbole_morec.run import run

    if "-h" in arguments or "--help" in arguments:
        print(_help())
        return 0
    settings = _settings(arguments)
    files = settings.pop("config_files", [])
    run(settings.pop("model", None), settings.pop("dataset", None), files, settings)
    return 0


def _evaluate(arguments: list[str]) -> int:
    from recbole_morec.run import evaluate

    if {"-h", "--help"} & set(arguments):
        print(_help())
        return 0
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(
            "evaluate needs a run folder: recbole-morec evaluate saved/<dataset>/<run>"
        )
    settings = _settings(arguments[1:])
    files = settings.pop("config_files", [])
    evaluate(arguments[0], settings.pop("dataset", None), settings, files)
    return 0


def _compare(arguments: list[str]) -> int:
    from recbole_morec.tables import compare

    parser = argparse.ArgumentParser(prog="recbole-morec compare")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a folder of them")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args(arguments)
    compare(options.runs, options.markdown)
    return 0


def _convert(arguments: list[str]) -> int:
    from recbole_morec import convert

    parser = argparse.ArgumentParser(prog="recbole-morec convert")
    convert.add_arguments(parser)
    return convert.run(parser.parse_args(arguments))


def _sample(arguments: list[str]) -> int:
    from recbole_morec.sample import make_sample

    parser = argparse.ArgumentParser(prog="recbole-morec sample")
    parser.add_argument(
        "--output", required=True, help="folder to write, e.g. dataset_atomic/pixelrec"
    )
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier sample")
    options = parser.parse_args(arguments)
    make_sample(options.output, seed=options.seed, overwrite=options.overwrite)
    return 0


_VERBS: dict[str, Callable[[list[str]], int]] = {
    "evaluate": _evaluate,
    "compare": _compare,
    "convert": _convert,
    "sample": _sample,
}


def _settings(arguments: list[str]) -> dict[str, Any]:
    """Read ``--key=value``, ``--key value`` and a bare ``--key`` (True)."""
    from recbole_morec.config import parse_value

    short = {"-m": "--model", "-d": "--dataset"}
    settings: dict[str, Any] = {}
    problems = []
    position = 0
    while position < len(arguments):
        word = short.get(arguments[position], arguments[position])
        position += 1
        if not word.startswith("--"):
            problems.append(f"{word!r} stands alone; settings are written --key=value.")
            continue
        key, equals, text = word[2:].partition("=")
        values = [text] if equals else []
        while not equals and position < len(arguments) and not arguments[position].startswith("--"):
            values.append(arguments[position])
            position += 1
            if key != "config_files":
                break
        if key == "config_files":
            files = [file for value in values for file in value.split()]
            settings[key] = [*settings.get(key, []), *files]
        elif key in settings:
            problems.append(f"--{key} is given twice.")
        else:
            named = key in ("model", "dataset")  # a dataset may be called 2013
            settings[key] = (values[0] if named else parse_value(values[0])) if values else True
    if problems:
        raise ConfigError(problems)
    return settings


def _help() -> str:
    from recbole_morec.item_encoders.registry import encoder_names
    from recbole_morec.models.lookup import our_models, stock_models
    from recbole_morec.objectives import OBJECTIVES
    from recbole_morec.user_encoders import USER_ENCODERS

    lists = {
        "Models": ", ".join(our_models()),
        "RecBole models": ", ".join(sorted(stock_models())),
        "Item encoders": "image, text, image+text (as the dataset's yaml says), "
        + ", ".join(encoder_names())
        + ", any timm image model, any transformers text or vision model (hub id or folder)",
        "User encoders": ", ".join(USER_ENCODERS.names()),
        "Objectives": ", ".join(OBJECTIVES.names()),
    }
    lines = [_USAGE, *(f"{title}:\n  {text}\n" for title, text in lists.items())]
    lines.append("All settings with their defaults: docs/configuration.md")
    return "\n".join(lines)


class _TqdmHandler(logging.Handler):
    """Writes log lines above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _log_to_console() -> None:
    from recbole_morec import parallel

    logger = logging.getLogger("recbole_morec")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _TqdmHandler) for handler in logger.handlers):
        handler = _TqdmHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: parallel.rank() == 0)
        logger.addHandler(handler)
