"""Writes docs/configuration.md from the comments of ``properties/*.yaml``.

``python -m recbole_morec.settings_page --write docs/configuration.md``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_morec.config import PROPERTIES

_INTRO = """\
# Configuration

Settings are written as in RecBole: in YAML files (`--config_files a.yaml b.yaml`) and on the
command line (`--key=value`; a value is read as YAML: `--topk=[5,10]`, `--resume`, `--features=~`).
A key that nothing reads is an error that names the closest known one; all errors come at once,
before data is read.

Later wins:

1. RecBole's own defaults (overall, the model's, dataset)
2. `properties/overall.yaml`, then for our models `properties/multimodal.yaml` and
   `properties/model/<Model>.yaml`; for RecBole's sequential models with an `item_encoder`, what
   concerns that in `properties/multimodal.yaml`, then `properties/stock_content.yaml`
3. the dataset's own `<data_path>/<name>/<name>.yaml`, then `properties/dataset/<name>.yaml`
4. `properties/item_encoder/<encoder>.yaml` of the chosen item encoders, where there is one
5. your files, in order
6. the command line

A stock RecBole model keeps RecBole's defaults for everything that `properties/overall.yaml` does
not name (optimiser, learning rate, batch size, its own hyper-parameters).

`pooling`, `activation`, `train_layers` and `pretrained` may be given by modality:
`--pooling='{image: mean, text: cls}'`.

In a dataset's yaml, the settings under a key `multimodal:` hold for our models only, so that stock
models keep their own defaults there; one with an `item_encoder` takes what concerns that.

This page is written by `python -m recbole_morec.settings_page --write docs/configuration.md`.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [_INTRO]
    files = {
        "overall.yaml": "Every model",
        "multimodal.yaml": "Our models",
        "stock_content.yaml": "RecBole's models with an item encoder",
    }
    for file, title in files.items():
        parts.append(f"## {title} (`properties/{file}`)\n")
        parts += _sections((PROPERTIES / file).read_text(encoding="utf-8"))
    return "\n".join(parts)


def _sections(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.splitlines()[2:]:
        key, colon, rest = line.partition(":")
        if line.startswith("# "):
            lines += [f"### {line[2:]}\n", "| key | default | meaning |", "| --- | --- | --- |"]
        elif colon:
            value, _, comment = rest.partition(" # ")
            meaning = comment.strip().replace("|", "\\|")
            lines.append(f"| `{key}` | `{value.strip()}` | {meaning} |")
        elif not line.strip() and lines:
            lines.append("")
    lines.append("")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True)
    parser.parse_args().write.write_text(page(), encoding="utf-8")
