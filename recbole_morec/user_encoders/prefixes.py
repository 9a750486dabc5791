"""User encoders that read one history at a time."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from recbole_morec.user_encoders.base import History, UserEncoder


class PrefixEncoder(UserEncoder):
    """A user encoder that gives one state for a whole history.

    To learn from every item of a row it reads the row's prefixes, each as a history of its own
    padded on the left (PixelRec's AUGSEQ rows), out of the row's item vectors: no item is encoded
    twice for it. That costs up to L times the work of one pass over the row in the user encoder,
    and ``[B L, L, d]`` numbers of memory.
    """

    @abstractmethod
    def encode(self, vectors: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """Return the states ``[P, d]`` after histories padded on the left.

        Args:
            vectors: ``[P, L, d]``.
            items: ``[P, L]``, 0 = padding.
            mask: ``[P, L]`` bool, True at real items.
        """

    def forward(self, history: History) -> Tensor:
        vectors, items, mask = history.vectors, history.items, history.mask
        states = vectors.new_zeros(vectors.shape)
        if history.newest_only:
            newest = self.encode(vectors, items, mask)
            return torch.cat([states[:, :-1], newest[:, None].to(states.dtype)], 1)
        row, slot = torch.nonzero(mask, as_tuple=True)  # a prefix ends at every real item
        length = mask.shape[1]
        place = torch.arange(length, device=mask.device) + (slot - length + 1)[:, None]  # [P, L]
        inside, place, row_ = place >= 0, place.clamp_min(0), row[:, None]
        padding = history.padding
        if padding is None:
            padding = vectors.new_zeros(vectors.shape[-1])
        found = self.encode(
            torch.where(inside[..., None], vectors[row_, place], padding.to(vectors.dtype)),
            torch.where(inside, items[row_, place], 0),
            inside & mask[row_, place],
        )
        return states.index_put((row, slot), found.to(states.dtype))
