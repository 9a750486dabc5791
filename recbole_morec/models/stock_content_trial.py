"""Tries an item encoder in each of RecBole's sequential models; the table of what works."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from recbole_morec.config import MoRecConfig
from recbole_morec.data.atomic import ContentTable, write_content
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import MoRecError
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.models.lookup import stock_models
from recbole_morec.models.stock import StockAdapter
from recbole_morec.models.stock_limits import why_not
from recbole_morec.models.stock_tables import REGULARISED, whole_table
from recbole_morec.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_morec.training.optim import build_optimizer, parameter_groups

_PIXELS = 32
# Fewer candidates than the tiny dataset has items, in RecBole's own spelling.
_SETTINGS = {"GRU4RecCPR": {"reranker_CAN_NUM": "5"}, "SASRecCPR": {"reranker_CAN_NUM": "5"}}
_NOTES = {
    "BERT4Rec": "the mask token and the bias of each item stay the model's own",
    "DIEN": "other fields of `<dataset>.item` keep their rows in the joint table",
    "DIN": "other fields of `<dataset>.item` keep their rows in the joint table",
    "FEARec": "it compares a history with others that it draws while the loss is computed",
    "FPMC": "its three item tables are the item vectors and two linear maps of them",
    "HGN": "the table that scores is a linear map of the item vectors",
    "RepeatNet": "content in the history only: it scores with an output layer of a row per item",
    "S3Rec": "it draws items while the loss is computed; the mask token stays the model's own",
    "TransRec": "the bias of each item stays the model's own",
}

_SECTION = """## With an item encoder

```
python run_recbole_morec.py --model=NARM --dataset=pixelrec --item_encoder=image
```

puts an item encoder (`image`, `text`, `image+text`, `features`, a name, a list; see
[encoders](encoders.md)) in the place of the item table of one of RecBole's sequential models, whose
code stays as it is. Without `item_encoder`, or with `item_encoder: ~`, the model has its own table
of ids. General, context-aware and knowledge-aware models take none.

- The encoder comes in after the model has been constructed, so that the model's initialisation does
  not touch pretrained weights. Its vectors have the size of the table that they replace (the
  model's `embedding_size` or `hidden_size`).
- Its settings are those of our models (`train_layers`, `pooling`, `fusion`, `features`, ...); its
  backbone learns at `encoder_learning_rate`, the rest of the model as RecBole says. `transform` is
  ours (`native`, `paper`: how images are normalised) or RecBole's (`mask_itemseq`, ...: what is
  done to rows); without it images are normalised as the encoder says, and rows are the model's own.
  `load` takes `item_encoder` and `projection` from another run, of our models too.
- Every distinct item of a batch (history, target, negatives) is encoded once. Padding is the zero
  vector, where RecBole has a row of its table, and a class of its softmax.
- A loss over all items reads the whole table in each step. Stored features, ids and frozen encoders
  can afford it; with a trained encoder the catalogue must have at most `catalogue_per_step` items
  (2048 unless you say otherwise: as many as RecBole's batch has targets), else it is an error that
  says what to use instead. `--loss_type=BPR` encodes the items of the batch alone.
- Evaluation encodes the catalogue once, in fixed tiles; cold items are ranked by their content.
- Such a run is evaluated on its own dataset: user tables and other parts of RecBole's models belong
  to it.

Each model was tried with a small image encoder that trains: built, trained for an epoch, evaluated,
saved, loaded into another. "All items in each step" says when its loss reads the whole table.
"""


@dataclass(frozen=True)
class ContentRow:
    """One line of the table.

    Args:
        model: class name.
        works: it was built with a trained item encoder, trained, evaluated, saved and loaded.
        all_items: when its loss reads the vectors of all items in each step.
        note: the reason why not, or what to know.
    """

    model: str
    works: bool
    all_items: str
    note: str

    def line(self) -> str:
        """The row in Markdown."""
        works = "yes" if self.works else "no"
        return f"| {self.model} | {works} | {self.all_items} | {self.note} |"


def sequential_models() -> list[str]:
    """Names of RecBole's sequential models."""
    family = "recbole.model.sequential_recommender"
    names = [name for name, module in stock_models().items() if module.startswith(family)]
    return sorted(names, key=str.lower)


def try_content(name: str, data_path: Path, dataset: str) -> ContentRow:
    """Run a model with a small trained image encoder; see :func:`run_with_content`.

    A loss that reads all items is tried, and so is one that does not, where the model has it.

    Args:
        name: of a sequential model.
        data_path, dataset: a dataset whose items have images, see :func:`add_images`.
    """
    reason = why_not(name)
    if reason is not None:
        return ContentRow(name, False, "", reason)
    try:
        config = run_with_content(name, data_path, dataset)
        whole = whole_table(name, config)
        when = "no" if whole is None else "always"
        if whole is not None and whole.instead:
            when = f"unless {whole.instead.removesuffix(', ')}"
            pairs: dict[str, Any] = {"loss_type": "BPR"}
            if name in REGULARISED:
                pairs["reg_weight"] = 0
            run_with_content(name, data_path, dataset, catalogue_per_step=0, **pairs)
    except MoRecError as error:
        return ContentRow(name, False, "", str(error))
    return ContentRow(name, True, when, _NOTES.get(name, ""))


def run_with_content(name: str, data_path: Path, dataset: str, **settings: Any) -> MoRecConfig:
    """Train a model and its item encoder for an epoch, evaluate it, save it, load it into another.

    Returns:
        The settings of the run.

    Raises:
        MoRecError: something of that cannot be done, or the loaded model ranks otherwise.
    """
    overrides = {
        "data_path": str(data_path),
        "topk": [5],
        "valid_metric": "NDCG@5",
        "train_batch_size": 64,
        "show_progress": False,
        "item_encoder": "tiny_convnext",
        "pretrained": False,
        "image_size": _PIXELS,
        **_SETTINGS.get(name, {}),
        **settings,
    }
    config = MoRecConfig(f"recbole:{name}", dataset, overrides=overrides)
    data = MultimodalDataset(config)
    device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        adapter = StockAdapter(config, data)
        encoder = adapter.item_encoder
        before = [p.detach().clone() for p in encoder.encoder_parameters()]
        optimizer = build_optimizer(parameter_groups(adapter.model, config), config)
        adapter.model.train()
        for batch in TrainLoader(adapter.batches(), config["train_batch_size"], seed=0).epoch(0):
            optimizer.zero_grad()
            adapter.loss(batch).backward()
            optimizer.step()
        pairs = zip(before, encoder.encoder_parameters(), strict=True)
        if any(torch.equal(old, new) for old, new in pairs):
            raise MoRecError("parts of its item encoder do not learn")
        evaluator = Evaluator(config, data, device)
        found = []
        save_checkpoint(
            Path(folder) / "it", model=adapter.model, extra=adapter.extra_state(), state={}
        )
        other = StockAdapter(config, data, load_weights=False)
        _, extra = load_checkpoint(Path(folder) / "it", model=other.model)
        other.load_extra_state(extra)
        for each in (adapter, other):
            each.model.eval()
            found.append(evaluator.evaluate(each.scorer(device), "test").metrics)
        if found[0] != found[1]:
            raise MoRecError("a saved state ranks otherwise once it is loaded")
    return config


def add_images(folder: Path, items: int) -> None:
    """Give the items ``i0 .. i<items - 1>`` of a dataset folder a random image each."""
    rng = np.random.Generator(np.random.PCG64(1))
    (folder / "images").mkdir()
    tokens = [f"i{item}" for item in range(items)]
    for token in tokens:
        pixels = rng.integers(0, 256, (_PIXELS, _PIXELS, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{token}.png")
    table = ContentTable(
        fields={"cover": "image"},
        tokens=tokens,
        columns={"cover": [f"images/{token}.png" for token in tokens]},
    )
    write_content(folder / f"{folder.name}.content", table)


def render_content(rows: list[ContentRow]) -> str:
    """The section of the page: how it is done, and one line per model."""
    working = sum(row.works for row in rows)
    lines = [
        _SECTION,
        f"It works in {working} of {len(rows)} sequential models:",
        "",
        "| model | item encoder | all items in each step | |",
        "|---|---|---|---|",
        *(row.line() for row in rows),
    ]
    return "\n".join(lines) + "\n"
