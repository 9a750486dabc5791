"""The ID-aware Multi-modal Transformer of ODMT (arXiv 2308.04067, ACM MM 2023).

The text tokens, image tokens and ID vector of one item read each other in post-LN blocks; what
comes out at the first text token, the first image token and the ID token are three vectors of it.
With ``version: v1`` text and image tokens do not read the ID, so that their vectors exist for items
without a trained ID.

Exact ways of not computing what nobody reads (equal to :attr:`IdAwareTransformer.plain` up to
rounding, ``tests/test_id_aware_transformer.py``):

- the last block computes queries, output and feed-forward for the three rows that are read only;
- padded text tokens are masked as keys and never read as queries, so they are dropped: items are
  taken in groups of like text length.

Differences from the authors' code: the number of heads is a setting of its own; the norm and the
token-type table that it creates and never uses are left out; barred keys get minus infinity for
-1e4 (both are 0 after the softmax).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BRANCHES = ("id", "text", "image")
GROUPS = 4  # of items by text length; more groups drop more padding and make smaller products


class IdAwareTransformer(nn.Module):
    """Tokens of ``n`` items -> ``[n, 3, d]``: the ID's, the text's and the image's vector.

    Args:
        branches: which of the three are given, in this order.
        dim: d.
        widths: sizes of an ID vector, a text token and an image token, by branch.
        layers, heads: of the transformer.
        dropout: of tokens, attention weights and block outputs.
        version: ``v1`` bars text and image tokens from reading the ID; ``full`` lets all read all.

    Attributes:
        plain: compute every token of every block, as published (for comparison).
    """

    def __init__(
        self,
        dim: int,
        widths: dict[str, int],
        *,
        branches: tuple[str, ...] = BRANCHES,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
        version: Literal["v1", "full"] = "v1",
    ):
        super().__init__()
        self.inputs = nn.ModuleDict({name: nn.Linear(widths[name], dim) for name in BRANCHES})
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.branches = branches
        self.version = version
        self.plain = False

    def forward(self, ids: Tensor, text: Tensor, text_mask: Tensor, image: Tensor) -> Tensor:
        """Return ``[n, 3, d]`` in the order of ``branches``.

        Args:
            ids: ID vectors ``[n, D_id]``.
            text: text tokens ``[n, T, D_text]``.
            text_mask: ``[n, T]`` bool, True at real tokens.
            image: image tokens ``[n, P, D_image]``.
        """
        if self.plain or len(ids) == 0:
            return self._encode(ids, text, text_mask, image)
        place = torch.arange(1, text.shape[1] + 1, device=text.device)
        length = (text_mask * place).amax(1).clamp_min(1)  # [n], up to the last real token
        order = torch.argsort(length, stable=True)
        found = []
        for group in order.tensor_split(GROUPS):
            if len(group):
                width = int(length[group[-1]])
                mine = text[group, :width], text_mask[group, :width]
                found.append(self._encode(ids[group], *mine, image[group]))
        return torch.cat(found)[torch.argsort(order)]

    def _encode(self, ids: Tensor, text: Tensor, text_mask: Tensor, image: Tensor) -> Tensor:
        x = torch.cat(
            [
                self.inputs["text"](text),
                self.inputs["image"](image),
                self.inputs["id"](ids)[:, None],
            ],
            dim=1,
        )  # [n, T + P + 1, d]
        x = self.dropout(x)
        words, tokens = text.shape[1], x.shape[1]
        place = {"id": tokens - 1, "text": 0, "image": words}  # first word, first patch
        read = torch.tensor([place[branch] for branch in self.branches], device=x.device)
        allowed = self._allowed(text_mask, tokens)  # [n, 1 or tokens, tokens]
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            x = block(x, allowed, read if last and not self.plain else None)
        return x[:, read] if self.plain else x

    def _allowed(self, text_mask: Tensor, tokens: int) -> Tensor:
        """Which tokens a token reads, ``[n, tokens, tokens]`` (``[n, 1, tokens]``: all alike)."""
        keys = F.pad(text_mask, (0, tokens - text_mask.shape[1]), value=True)[:, None]
        if self.version != "v1":
            return keys
        own = torch.ones(tokens, tokens, dtype=torch.bool, device=keys.device)
        own[:-1, -1] = False
        return keys & own


class _Block(nn.Module):
    """Post-LN transformer block as IDvs.MoRec's: no biases in the attention, ReLU, eps 1e-6."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (
            nn.Linear(dim, dim, bias=False) for _ in range(4)
        )
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.attention_norm, self.norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor, rows: Tensor | None) -> Tensor:
        """``[n, T, d]`` -> ``[n, T, d]``, or ``[n, len(rows), d]`` of these rows alone."""
        mine = x
        if rows is not None:
            mine = x[:, rows]
            allowed = allowed if allowed.shape[1] == 1 else allowed[:, rows]
        attended = F.scaled_dot_product_attention(
            self._split(self.query(mine)),
            self._split(self.key(x)),
            self._split(self.value(x)),
            attn_mask=allowed[:, None],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        attended = self.output(attended.transpose(1, 2).flatten(2))
        mine = self.attention_norm(mine + self.dropout(attended))
        return self.norm(mine + self.dropout(self.down(F.relu(self.up(mine)))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
