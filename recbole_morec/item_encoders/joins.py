"""The ways to make one vector of what several encoders say of an item: the key ``fusion``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError, suggest
from recbole_morec.item_encoders.pooling import masked_mean
from recbole_morec.item_encoders.settings import EncoderSettings
from recbole_morec.item_encoders.token_attention import CoAttentionBlock, SelfAttentionBlock

Tokens = tuple[Tensor, Tensor]  # [n, T, d] and a bool mask [n, T]


class Join(nn.Module):
    """Joins the vectors ``e_1 .. e_m`` (or the tokens) of the members of a fusion.

    Args:
        widths: size of each member's vector, by modality, in the order of ``item_encoder``.
        settings: of the fusion.

    Attributes:
        width: size of the joined vector.
        projects: whether a projection follows where ``fusion_projection`` does not say.
        reads_tokens: whether it gets tokens in place of vectors.
        pair: whether it joins two members and no more.
        one_size: whether all members must give vectors of one size.
    """

    projects: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = False
    pair: ClassVar[bool] = False
    one_size: ClassVar[bool] = True

    def __init__(self, widths: Mapping[str, int], settings: EncoderSettings):
        super().__init__()
        self.width = next(iter(widths.values()))


class Sum(Join):
    """``e_1 + ... + e_m`` (MoRec's ``modal_add``)."""

    projects = False

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """``m`` times ``[n, d]`` -> ``[n, d]``."""
        return torch.stack(list(vectors)).sum(dim=0)


class LinearSum(Join):
    """``W_1 e_1 + ... + W_m e_m``, each map with a bias (NineRec's ``sum``)."""

    projects, one_size = False, False

    def __init__(self, widths: Mapping[str, int], settings: EncoderSettings):
        super().__init__(widths, settings)
        self.width = settings.embedding_size
        self.maps = nn.ModuleDict(
            {modality: _linear(width, self.width) for modality, width in widths.items()}
        )

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """``m`` vectors -> ``[n, d]``."""
        mapped = [linear(x) for linear, x in zip(self.maps.values(), vectors, strict=True)]
        return torch.stack(mapped).sum(dim=0)


class Concat(Join):
    """``[e_1; ...; e_m]``, which the projection reads (MoRec's ``modal_cat``, NineRec's
    ``concat``, PixelRec's hybrid)."""

    one_size = False

    def __init__(self, widths: Mapping[str, int], settings: EncoderSettings):
        super().__init__(widths, settings)
        self.width = sum(widths.values())

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """``m`` vectors -> ``[n, d_1 + .. + d_m]``."""
        return torch.cat(list(vectors), dim=-1)


class Film(Join):
    """``gamma * e_2 + beta`` with ``[gamma; beta] = W e_1 + b``: the first conditions the second
    (NineRec's ``film``, text first)."""

    pair = True

    def __init__(self, widths: Mapping[str, int], settings: EncoderSettings):
        super().__init__(widths, settings)
        self.condition = _linear(self.width, 2 * self.width)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """Twice ``[n, d]`` -> ``[n, d]``."""
        first, second = vectors
        gamma, beta = self.condition(first).chunk(2, dim=-1)
        return gamma * second + beta


class Gated(Join):
    """``sigmoid(W_1 e_1) * W_2 e_2``: the first is the gate of the second (NineRec's ``gated``,
    text first)."""

    pair = True

    def __init__(self, widths: Mapping[str, int], settings: EncoderSettings):
        super().__init__(widths, settings)
        self.gate = _linear(self.width, self.width)
        self.value = _linear(self.width, self.width)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """Twice ``[n, d]`` -> ``[n, d]``."""
        first, second = vectors
        return torch.sigmoid(self.gate(first)) * self.value(second)


class CoAttention(Join):
    """The tokens of two encoders read each other; ``[mean of the first; mean of the second]``.

    Each side's tokens first get a learned vector that says which side they are of.
    """

    pair, reads_tokens = True, True

    def __init__(self, widths: Mapping[str, int], settings: EncoderSettings):
        super().__init__(widths, settings)
        self.sides = nn.Embedding(2, self.width)
        nn.init.normal_(self.sides.weight, std=0.02)  # BERT's token types
        self.blocks = _blocks(CoAttentionBlock, self.width, settings)
        self.width = 2 * self.width

    def forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """Twice ``[n, T, d]`` -> ``[n, 2 d]``."""
        (x, x_mask), (y, y_mask) = tokens
        x, y = x + self.sides.weight[0], y + self.sides.weight[1]
        for block in self.blocks:
            x, y = block(x, y, x_mask, y_mask)
        return torch.cat([masked_mean(x, x_mask), masked_mean(y, y_mask)], dim=-1)


class MergedAttention(Join):
    """The tokens of all encoders in one sequence read each other; the mean of the real ones."""

    projects, reads_tokens = False, True

    def __init__(self, widths: Mapping[str, int], settings: EncoderSettings):
        super().__init__(widths, settings)
        self.blocks = _blocks(SelfAttentionBlock, self.width, settings)

    def forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """``m`` times ``[n, T, d]`` -> ``[n, d]``."""
        x = torch.cat([states for states, _ in tokens], dim=1)
        mask = torch.cat([real for _, real in tokens], dim=1)
        for block in self.blocks:
            x = block(x, mask)
        return masked_mean(x, mask)


JOINS: dict[str, type[Join]] = {
    "sum": Sum,
    "linear_sum": LinearSum,
    "concat": Concat,
    "film": Film,
    "gated": Gated,
    "co_attention": CoAttention,
    "merged_attention": MergedAttention,
}


def make_join(method: str, widths: Mapping[str, int], settings: EncoderSettings) -> Join:
    """Build the join that ``fusion`` names.

    Raises:
        ConfigError: an unknown name, members that it cannot join, heads that do not divide ``d``.
    """
    if method not in JOINS:
        raise ConfigError(
            f"fusion: {method!r} is not one of {', '.join(JOINS)}.{suggest(str(method), JOINS)}"
        )
    kind = JOINS[method]
    problems = []
    if kind.pair and len(widths) != 2:
        problems.append(
            f"fusion: {method} joins two encoders, and item_encoder names {len(widths)} "
            f"({', '.join(widths)}); use sum, linear_sum, concat or merged_attention."
        )
    if kind.one_size and len(set(widths.values())) > 1:
        given = ", ".join(f"{modality} {width}" for modality, width in widths.items())
        problems.append(
            f"fusion: {method} joins vectors of one size, and the encoders give {given}; use "
            "concat, or projection_layers: [] for those that have `none`."
        )
    problems += heads_problems(method, next(iter(widths.values())), settings.fusion_heads)
    if problems:
        raise ConfigError(problems)
    return kind(widths, settings)


def heads_problems(method: str, size: int, heads: int) -> list[str]:
    """Say that vectors of ``size`` cannot be split over the heads of a join, where it is so."""
    if not JOINS[method].reads_tokens or size % heads == 0:
        return []
    return [
        f"fusion_heads: {heads} heads do not divide vectors of {size}; choose a number that does, "
        "or another embedding_size."
    ]


def _blocks(kind: type[nn.Module], dim: int, settings: EncoderSettings) -> nn.ModuleList:
    inner = settings.fusion_inner_size or 4 * dim
    blocks = nn.ModuleList(
        kind(dim, settings.fusion_heads, inner, settings.projection_dropout)
        for _ in range(settings.fusion_blocks)
    )
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            _start(module)
    return blocks


def _linear(size_in: int, size_out: int) -> nn.Linear:
    return _start(nn.Linear(size_in, size_out))


def _start(linear: nn.Linear) -> nn.Linear:
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
