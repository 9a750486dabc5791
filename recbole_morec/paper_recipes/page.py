"""``docs/paper.md``: what the recipes are, the published numbers, and what differs."""

from __future__ import annotations

from recbole_morec.paper_recipes.recipe import Recipe

_INTRO = """\
# Recipes of the papers

`properties/paper/` holds the published experiments of PixelRec, NineRec, IDvs.MoRec and ODMT, one
settings file per row of their tables, with the published number in a comment (ODMT's tables are not
at hand: a file per data set, no figures). A file opens with its command:

```
python run_recbole_morec.py \\
    --config_files properties/paper/pixelrec-sasrec-vit.yaml --dataset=pixel200k
```

The data sets are not part of this package; [converting](converting.md) says how to make
`pixel200k`, `bili_2m`, `mind`, `hm`, ... from the downloads of their authors. What a paper decides
stands in the file, and the file wins over the data set's own yaml and the defaults; the command
line wins over the file: `--mixed_precision=bf16` (`no` on a CPU, where fp16 is not to be had),
`--fit_memory=8GB` for less memory and the same loss ([Memory](performance.md#memory)). In an
installed wheel the files lie in `recbole_morec/properties/paper`.

The figures are the papers'. They have not been measured again here: that takes the data, and for
the larger encoders days on several GPUs. What has been compared are the models themselves: with the
published weights and batches, losses, gradients and scores equal those of the authors' code
(`tests/parity`).

## Choices

- **README over yaml.** Where PixelRec's README names another best value than its yaml files, it is
  taken, and the comment says so.
- **Batch sizes are global**: the published size per GPU times the GPUs. Where a published row is
  one pair or one prefix and ours is a window of several (MF, VBPR, DSSM of IDvs.MoRec; SRGNN,
  LightSANs), the number of windows that holds about as many.
- **Of several learning rates the first.** IDvs.MoRec publishes the grids, not the winners.
- **NineRec's targets** have the settings of the source, as its code restores them with the
  optimiser. `ninerec-*-target` gives IDRec or NoPT as it is and HasPT with `--load=<run of the
  source>`; `--dataset=bili_dance`, `ku`, ... are the other targets ([transfer](transfer.md)).
- **ODMT's quirks are on**: `transform: paper`, and on Stream `tie_cls_feature` ([ODMT](odmt.md)).
- **Two stages** of IDvs.MoRec are an encoder that does not train (`train_layers: none`), which
  gives the numbers of stored vectors. `--item_encoder=features --features=<file>` reads stored
  ones, faster.

## Why figures may differ

What the published code does and no setting does here:

- it keeps BatchNorm in training mode in layers that are frozen (PixelRec's ResNets); frozen parts
  stand still here. `batch_norm: train` computes statistics over the batch of one process, `encode:
  every_slot` over every slot of it; the published code shares them between GPUs;
- it encodes an item once per slot, so that dropout and stochastic depth of BERT and Swin differ
  from slot to slot; here an item has one vector per step. PixelRec's LightSANs and SRGNN encode
  every prefix anew;
- its negatives repeat from epoch to epoch (PixelRec), or are the same in several workers (NineRec);
  here they are a function of seed, epoch and row;
- tables of IDs start from other distributions in PixelRec's SASRec, BERT4Rec, LightSANs (normal),
  NextItNet and SRGNN (uniform), and the projection of text encoders in IDvs.MoRec and NineRec from
  PyTorch's start; here all start Xavier-normal;
- mask tokens of NineRec's BERT4Rec are items of the catalogue, candidates and negatives too;
- PixelRec's DSSM and FM on IDs drop all but the first row of every batch; NineRec's GRU4Rec on
  texts sorts positions as text; IDvs.MoRec's in-batch rows on IDs of HM and Bili stop early on the
  test part;
- ODMT's code never evaluates the state after its last epoch; here it is evaluated;
- ties in early stopping are no gain in NineRec and IDvs.MoRec; here they are one, as in PixelRec
  and RecBole;
- images are squashed from full size to 224 pixels; `convert` stores them at 256 pixels as JPEG by
  default (`--image-form copy` keeps the files).

Not here: rows whose figures stand in the papers alone (NineRec's DSSM, sequence-to-one and
multimodal rows, NDCG), and those that need other data (Table 3 of IDvs.MoRec: items of at least 20,
50 or 200 interactions).
"""

_TITLES = {
    "pixelrec": "PixelRec (SDM 2024)",
    "ninerec": "NineRec (TPAMI 2024)",
    "morec": "IDvs.MoRec (SIGIR 2023)",
    "odmt": "ODMT (MM 2023)",
}


def page(recipes: list[Recipe]) -> str:
    """The page as Markdown."""
    parts = [_INTRO]
    for system, title in _TITLES.items():
        parts += [f"## {title}\n", "| recipe | measured | published |", "| --- | --- | --- |"]
        names = (f"{system}-", f"{system}_")
        parts += [_row(recipe) for recipe in recipes if recipe.name.startswith(names)]
        parts.append("")
    return "\n".join(parts)


def _row(recipe: Recipe) -> str:
    link = f"[{recipe.name}](../properties/paper/{recipe.name}.yaml)"
    measured = recipe.measured.replace("<", "\\<")
    return f"| {link} | {measured} | {' '.join(recipe.figures)} |"
