"""recbole_morec: recommenders that read an item's picture and words, beside RecBole's models."""

from recbole_morec import compat as _compat

__version__ = "0.1.0"

_compat.apply()
