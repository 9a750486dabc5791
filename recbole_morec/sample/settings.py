"""The settings that suit the sample dataset: what `<name>.yaml` beside its files says."""

from __future__ import annotations

# The bundled dataset_atomic/pixelrec/pixelrec.yaml is this text; a test holds them together.
_TEXT = """\
# The bundled sample, a synthetic world of covers and titles made by `recbole-morec sample`: \
what suits it.
# python run_recbole_morec.py --model=PixelNet --dataset=NAME
protocol: pixelrec
text_fields: [title]
image_encoder: tiny_convnext   # small, from random weights: nothing is downloaded
text_encoder: tiny_bert        # reads the WordPiece in tokenizer/
objective: in_batch            # PixelRec's own recipe is bpr with one negative
multimodal:                    # for our models only; stock models keep their own defaults
  image_size: 32
  epochs: 14
  train_batch_size: 128
  learning_rate: 2e-3
  encoder_learning_rate: 2e-3
  scheduler: cosine
  warmup_ratio: 0.05
"""


def sample_settings(name: str) -> str:
    """Return the text of the sample's yaml for a dataset called `name`."""
    return _TEXT.replace("--dataset=NAME", f"--dataset={name}")
