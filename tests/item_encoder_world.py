"""A tiny world for the tests of item encoders: three items, eleven words, tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from recbole_morec.item_encoders import ImageNeed, build_item_encoder

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "green", "shirt", "dress", "shoe")


def make_dataset(folder: Path) -> SimpleNamespace:
    """Three items, and a word tokenizer in the folder ``tokenizer``."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    target = folder / "tokenizer"
    target.mkdir()
    tokenizer.save(str(target / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    special |= {"sep_token": "[SEP]", "tokenizer_class": "PreTrainedTokenizerFast"}
    (target / "tokenizer_config.json").write_text(json.dumps(special))
    items = np.array(["[PAD]", "i7", "i2", "i5"])
    return SimpleNamespace(item_tokens=items, item_num=4, folder=folder)


def build(dataset, name, load_weights=True, **settings):
    config = {"item_encoder": name, "embedding_size": 8, **settings}
    return build_item_encoder(config, dataset, load_weights)


def content_for(encoder, n=2):
    """Content of ``n`` items: random pixels and texts of different lengths."""
    content = {"items": torch.arange(1, n + 1)}
    for need in encoder.needs:
        if isinstance(need, ImageNeed):
            generator = torch.Generator().manual_seed(1)
            shape = (n, 3, need.size, need.size)
            content["image"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            texts = ["a red shirt", "blue"] * n
            tokens = need.tokenizer(texts[:n], padding=True, return_tensors="pt")
            content["text_ids"] = tokens["input_ids"]
            content["text_mask"] = tokens["attention_mask"].bool()
    return content


def tiny_transformers(folder, kind):
    """Save a tiny random ``transformers`` model and return it."""
    import transformers as hf

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    size["intermediate_size"] = 32
    image = {**size, "image_size": 16, "patch_size": 8}
    text = {**size, "vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3}
    makers = {
        "bert": lambda: hf.BertModel(hf.BertConfig(**size, vocab_size=len(WORDS))),
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**image)),
        "mae": lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**image)),
        "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=image)),
        "gpt2": lambda: hf.GPT2Model(
            hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=len(WORDS))
        ),
        "t5": lambda: hf.T5Model(
            hf.T5Config(d_model=16, d_kv=8, num_heads=2, num_layers=2, d_ff=32, vocab_size=11)
        ),
    }
    model = makers[kind]()
    model.save_pretrained(folder)
    return model
