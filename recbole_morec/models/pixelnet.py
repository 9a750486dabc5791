"""PixelNet (Cheng et al., "An Image Dataset for Benchmarking Recommender Systems with Raw Pixels",
SDM 2024): an image encoder and SASRec trained end to end.

``e_i = ReLU(W pool(f(image_i)) + b)``, states by SASRec over the last L = 10 items, scores
``h . e_i``. Published objective: ``bpr`` with one uniform negative per position, summed over
positions.

Differences from the authors' code: each distinct item of a batch is encoded once, padding is a zero
vector instead of an encoded blank image, images are normalised with the encoder's own mean and
standard deviation unless ``transform: paper``, and frozen parts run in evaluation mode.
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class PixelNet(MultimodalSequential):
    """Image encoder + user encoder; defaults in ``properties/model/PixelNet.yaml``."""
