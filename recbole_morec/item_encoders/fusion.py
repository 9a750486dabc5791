"""Several encoders as one: an item seen, read and known by its id at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.base import Content, ItemEncoder, Reserved
from recbole_morec.item_encoders.joins import JOINS, Join, Tokens, make_join
from recbole_morec.item_encoders.projection import make_projection
from recbole_morec.item_encoders.settings import EncoderSettings


class FusionEncoder(ItemEncoder):
    """Joins what its members say of an item, see :mod:`recbole_morec.item_encoders.joins`.

    Args:
        members: encoders by modality; each has its own backbone and projection.
        join: makes one vector of theirs.
        projection: from there to the item vector.
        dim: size ``d`` of an item vector.
    """

    def __init__(
        self, members: Mapping[str, ItemEncoder], join: Join, projection: nn.Module, dim: int
    ):
        super().__init__(" + ".join(member.name for member in members.values()), dim)
        self.members = nn.ModuleDict(members)
        self.join = join
        self.projection = projection
        self.needs = [need for member in members.values() for need in member.needs]

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """The projected tokens of the members one after another, ``[n, T_1 + .. + T_m, d]``."""
        states, masks = zip(*self._tokens(content), strict=True)
        return torch.cat(states, dim=1), torch.cat(masks, dim=1)

    def _tokens(self, content: Content) -> list[Tokens]:
        """What attention joins: every member's tokens, projected one by one, and their masks."""
        found = []
        for member in self.members.values():
            states, mask = member.tokens(content)
            states = member.projection(states)
            if mask is None:
                mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
            found.append((states, mask))
        return found

    def forward(self, content: Content) -> Tensor:
        """Return fused item vectors ``[n, d]``."""
        if self.join.reads_tokens:
            return self.projection(self.join(self._tokens(content)))
        vectors = [member(content) for member in self.members.values()]
        return self.projection(self.join(vectors))

    def normalised(self, content: Content) -> Content:
        """Return the content as every member reads it."""
        for member in self.members.values():
            content = member.normalised(content)
        return content

    def reserved(self, kind: Reserved) -> Content:
        """The reserved rows of all members."""
        rows: Content = {}
        for member in self.members.values():
            rows |= member.reserved(kind)
        return rows

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the trainable backbone parameters of all members."""
        for member in self.members.values():
            yield from member.encoder_parameters()

    @property
    def batch_dependent(self) -> bool:
        """Whether any member is."""
        return any(member.batch_dependent for member in self.members.values())

    def architecture(self) -> dict[str, Any]:
        """The architectures of the members, by modality."""
        members = {modality: member.architecture() for modality, member in self.members.items()}
        return {"name": self.name, "members": members}


def member_settings(settings: EncoderSettings, method: str) -> EncoderSettings:
    """Return the settings of a member of a fusion by ``method``.

    Where attention reads the members' tokens, a pooling of theirs has no use: what only that would
    read (a pooler, the norm after it) must not train.

    Raises:
        ConfigError: such a pooling is asked for.
    """
    if method not in JOINS or not JOINS[method].reads_tokens:
        return settings
    if settings.pooling not in ("default", "project_mean"):
        raise ConfigError(
            f"pooling: fusion {method} reads all tokens, so that {settings.pooling} has no use; "
            "leave it at default."
        )
    return replace(settings, pooling="project_mean")


def two_of_a_kind(first: str, second: str, modality: str) -> str:
    """Say that two encoders of a list read the same of an item."""
    return (
        f"item_encoder: {first!r} and {second!r} both read {modality}; a fusion has one encoder "
        "per modality. Leave one of them out."
    )


def make_fusion(
    members: Mapping[str, ItemEncoder], method: str, settings: EncoderSettings
) -> FusionEncoder:
    """Build the fusion of ``members`` that the settings ask for.

    Args:
        members: encoders by modality, in the order of ``item_encoder``.
        method: one of :data:`~recbole_morec.item_encoders.joins.JOINS`.
        settings: of the fusion.

    Raises:
        ConfigError: members that cannot be joined so, or a join that needs its projection.
    """
    join = make_join(method, {name: member.dim for name, member in members.items()}, settings)
    projects = settings.fusion_projection
    projects = join.projects if projects is None else projects
    if not projects:
        if join.width != settings.embedding_size:
            raise ConfigError(
                f"fusion_projection: without it, fusion {method} gives vectors of {join.width}, "
                f"and embedding_size is {settings.embedding_size}; leave it empty or True."
            )
        return FusionEncoder(members, join, nn.Identity(), join.width)
    projection, dim = make_projection(join.width, settings, reads_vectors=True)
    return FusionEncoder(members, join, projection, dim)
