"""The bundled sample dataset: a small world whose right answers are known."""

from recbole_morec.sample.write import make_sample

__all__ = ["make_sample"]
