"""A small BERT-style WordPiece tokenizer for the sample's titles.

The vocabulary is counted here and not by the trainer of `tokenizers`, whose result differs from
one run to the next: all single characters, and every word or word half that several titles share.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tokenizer(titles: Iterable[str], fewest: int = 3) -> Tokenizer:
    """Build a lower-casing WordPiece tokenizer whose `[CLS] ... [SEP]` frame is BERT's.

    Args:
        titles: the texts to count words in.
        fewest: how often a word (or the first or second half of a word) must occur to be a token.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for title in titles:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(title)))
    characters = sorted({character for word in words for character in word})
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        half = (len(word) + 1) // 2
        pieces[word] += count
        if 0 < half < len(word):
            pieces[word[:half]] += count
            pieces["##" + word[half:]] += count
    frequent = [piece for piece, count in pieces.items() if count >= fewest]
    frequent.sort(key=lambda piece: (-pieces[piece], piece))
    ordered = [*SPECIAL, *characters, *("##" + character for character in characters), *frequent]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(ordered))}

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int = 64) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which `AutoTokenizer` opens offline."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8", newline="\n")
