"""Tries every model of RecBole on a tiny dataset and writes the table of what runs.

python -m recbole_morec.models.stock_table --write docs/recbole-models.md
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import MoRecError
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.models.lookup import our_models, stock_models
from recbole_morec.models.stock import StockAdapter
from recbole_morec.models.stock_content_trial import (
    add_images,
    render_content,
    sequential_models,
    try_content,
)
from recbole_morec.models.stock_limits import FEATURE_SETTINGS, FIRST_STAGE, why_not

_NAME = "tiny"
_ITEMS = 150
_SETTINGS = {"NCL": {"num_clusters": 5}}
_NOTES = {
    "ADMMSLIM": "scores carry RecBole's small random noise, here a function of the seed",
    "FEARec": "holds all training rows in memory; start-up time grows with their square",
    "LINE": "walks through a list of users: negatives differ after a resume",
    "NCL": "needs faiss: `pip install faiss-cpu`",
    "Pop": "counts interactions (RecBole's class counts an item once per batch)",
    "SHAN": "histories padded on the left when scoring too (RecBole: only in training)",
}

_HEAD = """# RecBole's models

Every model of RecBole 1.2.1, tried on a tiny dataset: built, trained for an epoch, evaluated. This
page is written by

```
python -m recbole_morec.models.stock_table --write docs/recbole-models.md
```

Run one with `--model=NAME`; where we have a model of the same name, RecBole's own is
`--model=recbole:NAME`. Stock models get the same histories, order, split, candidates and evaluation
as ours. They keep their own loss and their own settings (`RecBole/properties/model/NAME.yaml`).

How they are fed:

- **Sequential** models: every training item but a user's first is a target, with the
  `MAX_ITEM_LIST_LENGTH` items before it, padded on the right (RecBole's augmentation).
- **General** models: every training interaction, with negatives that the user does not have in the
  training part. **Context-aware** models: the same with labels 1 and 0, one negative per
  interaction unless `train_neg_sample_args` says otherwise, and the `token` and `token_seq` fields
  of `<dataset>.item`.
- **Auto-encoders**: a row per user. Models **without a gradient** (Pop, ItemKNN, ...): one pass.

What differs from RecBole:

- Timestamps are compared exactly (RecBole rounds them to float32: Unix seconds to steps of 128 s).
- Items seen are masked as the protocol says, for sequential models too. `protocol=recbole` masks
  nothing; RecBole masks the history for general models only (`history_mask=full` does so here).
- One split for all models. RecBole tests a general model also on users of two interactions.
- `train_batch_size` counts interactions, without their negatives; a step covers all processes.
- Popularity (metrics, negatives) counts all training interactions. RecBole leaves out the first of
  every user for sequential models, and draws negatives by popularity over validation and test too.
- Draws are a function of (seed, epoch, row). `train_neg_sample_args.dynamic` is not supported.

With `item_encoder`, sequential models read item content: see [below](#with-an-item-encoder).

Known limits: with several processes or `accumulation_steps` the shares of a loss are weighed by
their rows. That is exact for losses that are means over rows; BERT4Rec averages over masked items,
and contrastive parts (SGL, NCL, FEARec) see the rows of their own share only. Models marked "scores
pairs" have no `full_sort_predict` and are evaluated on catalogues of up to 20,000 items. DGCF asks
for several batches per epoch, NCL for more users and items than `num_clusters`.

"""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        model: class name.
        family: ``general``, ``sequential``, ...
        runs: it was built, trained and evaluated.
        note: the reason why not, or what to know.
    """

    model: str
    family: str
    runs: bool
    note: str


def try_model(name: str, data_path: Path) -> Row:
    """Build a stock model on the tiny dataset, train it for an epoch and evaluate it."""
    family = stock_models()[name].split(".")[2].removesuffix("_recommender").replace("_", "-")
    reason = why_not(name)
    if reason is not None:
        return Row(name, family, False, reason)
    try:
        one_by_one = run_once(name, data_path)
    except MoRecError as error:
        return Row(name, family, False, str(error))
    notes = [_NOTES[name]] if name in _NOTES else []
    if one_by_one:
        notes.append("scores pairs")
    if name in FIRST_STAGE:
        notes.append("first training stage only ({}={})".format(*FIRST_STAGE[name]))
    if name in FEATURE_SETTINGS:
        notes.append(f"reads `<dataset>.item`; {FEATURE_SETTINGS[name]} names the field")
    if name in our_models():
        notes.append(f"our model has the name; this one is `recbole:{name}`")
    return Row(name, family, True, "; ".join(notes))


def run_once(name: str, data_path: Path) -> bool:
    """Train a stock model for an epoch on the tiny dataset and evaluate it.

    Returns:
        Does it score single user-item pairs?
    """
    overrides = {
        "data_path": str(data_path),
        "topk": [5],
        "valid_metric": "NDCG@5",
        "train_batch_size": 64,
        **_SETTINGS.get(name, {}),
    }
    config = MoRecConfig(f"recbole:{name}", _NAME, overrides=overrides)
    dataset = MultimodalDataset(config)
    device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = StockAdapter(config, dataset)
        trained = [p for p in adapter.model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-3) if adapter.trains else None
        adapter.model.train()
        for batch in TrainLoader(adapter.batches(), 64, seed=0).epoch(0):
            loss = adapter.loss(batch)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        adapter.load_extra_state(adapter.extra_state())
        adapter.model.eval()
        scorer = adapter.scorer(device)
        Evaluator(config, dataset, device).evaluate(scorer, "test")
    return scorer.one_by_one


def write_tiny(data_path: Path, users: int = 60, items: int = _ITEMS) -> Path:
    """Write the tiny dataset that the models are tried on; returns ``data_path``."""
    folder = data_path / _NAME
    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.PCG64(0))
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        chosen = rng.choice(items, size=int(rng.integers(4, 9)), replace=False)
        lines += [f"u{user}\ti{item}\t{1000 + t}" for t, item in enumerate(chosen)]
    (folder / f"{_NAME}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["item_id:token\tclass:token_seq\tbrand:token"]
    lines += [f"i{item}\tc{item % 3} c{item % 5}\tb{item % 4}" for item in range(items)]
    (folder / f"{_NAME}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data_path


def render(rows: list[Row]) -> str:
    """The page: what to know, and one line per model."""
    running = sum(row.runs for row in rows)
    lines = [
        f"{running} of {len(rows)} models run.",
        "",
        "| model | family | runs | |",
        "|---|---|---|---|",
    ]
    for row in rows:
        lines.append(f"| {row.model} | {row.family} | {'yes' if row.runs else 'no'} | {row.note} |")
    return _HEAD + "\n".join(lines) + "\n"


def main(arguments: Any = None) -> None:
    """Try all models and write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="file to write; printed if not given")
    path = parser.parse_args(arguments).write
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        data_path = write_tiny(Path(folder) / "data")
        rows = [try_model(name, data_path) for name in sorted(stock_models(), key=str.lower)]
        add_images(data_path / _NAME, _ITEMS)
        with_content = [try_content(name, data_path, _NAME) for name in sequential_models()]
    page = render(rows) + "\n" + render_content(with_content)
    if path is None:
        print(page)
    else:
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
