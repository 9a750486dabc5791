"""A tiny colour world: items are coloured squares with a title, every user likes one colour."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "grey": (128,) * 3}


def write_world(
    folder: Path,
    *,
    users: int = 60,
    items_per_colour: int = 10,
    length: int = 8,
    cold_per_colour: int = 1,
    seed: int = 0,
    cycle: bool = False,
) -> Path:
    """Write a dataset folder in which a user's items all have one colour.

    The last ``cold_per_colour`` items of each colour occur only as a user's newest interaction.
    With ``cycle`` a user goes round the colours instead, and no item is cold.
    """
    from recbole_morec.data.atomic import ContentTable, write_content

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "images").mkdir()
    tokens, titles, covers, by_colour = [], [], [], {}
    for colour, rgb in COLOURS.items():
        by_colour[colour] = []
        for i in range(items_per_colour):
            token = f"{colour}{i}"
            pixels = np.clip(np.array(rgb) + rng.normal(0, 12, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{token}.png")
            tokens.append(token)
            titles.append(f"a {colour} thing number {i}")
            covers.append(f"images/{token}.png")
            by_colour[colour].append(token)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        own = by_colour[list(COLOURS)[user % len(COLOURS)]]
        warm = own[: len(own) - cold_per_colour]
        chosen = list(rng.permutation(warm)[: length - 1])
        newest = own[-1] if cold_per_colour and user % 3 == 0 else None
        chosen.append(newest or str(rng.choice([w for w in warm if w not in chosen] or warm)))
        if cycle:
            colours = np.roll(list(COLOURS), -user)
            chosen = [str(rng.choice(by_colour[colours[t % len(colours)]])) for t in range(length)]
        lines += [f"u{user}\t{item}\t{1_600_000_000 + 10 * t}" for t, item in enumerate(chosen)]
    (folder / f"{folder.name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = ContentTable(
        fields={"title": "text", "cover": "image"},
        tokens=tokens,
        columns={"title": titles, "cover": covers},
    )
    write_content(folder / f"{folder.name}.content", table)
    _write_tokenizer(folder / "tokenizer", titles)
    (folder / f"{folder.name}.yaml").write_text(
        "image_encoder: tiny_convnext\ntext_encoder: tiny_bert\n"
        "image_size: 32\nMAX_ITEM_LIST_LENGTH: 5\nobjective: in_batch\npretrained: False\n",
        encoding="utf-8",
    )
    return folder


def _write_tokenizer(folder: Path, titles: list[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for title in titles for word in title.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A dataset folder ``colours``; its parent is the ``data_path``."""
    return write_world(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture
def settings(world, tmp_path) -> dict:
    """Overrides for a quick, quiet run on the tiny world."""
    return {
        "data_path": str(world.parent),
        "checkpoint_dir": str(tmp_path / "saved"),
        "show_progress": False,
        "log_tensorboard": False,
        "use_gpu": False,
        "topk": [1, 5],
        "item_encoder": "id",
        "valid_metric": "NDCG@5",
        "embedding_size": 16,
    }
