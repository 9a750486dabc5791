"""Several encoders as one: an item seen, read and known by its id at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError, suggest
from recbole_morec.item_encoders.base import Content, ItemEncoder, Reserved
from recbole_morec.item_encoders.projection import Projection

FUSIONS = ("sum", "concat")


class FusionEncoder(ItemEncoder):
    """Joins the item vectors ``e_1 .. e_m`` of its members.

    ``sum``     ``e_1 + ... + e_m`` (MoRec's ``modal_add``; NineRec's with ``activation: none``).
    ``concat``  ``activation(W [e_1; ...; e_m] + b)`` (MoRec's ``modal_cat``).

    Args:
        members: encoders of equal ``dim`` by modality; each has its own backbone and projection.
        method: one of :data:`FUSIONS`.
        activation: of the ``concat`` projection.
        hidden: sizes of hidden layers of the ``concat`` projection (MoRec's ``modal_cat_3``).
    """

    def __init__(
        self,
        members: Mapping[str, ItemEncoder],
        method: str = "sum",
        activation: str = "relu",
        hidden: tuple[int, ...] = (),
    ):
        if method not in FUSIONS:
            raise ConfigError(
                f"fusion: {method!r} is not one of {', '.join(FUSIONS)}."
                f"{suggest(str(method), FUSIONS)}"
            )
        dim = next(iter(members.values())).dim
        super().__init__(" + ".join(member.name for member in members.values()), dim)
        self.members = nn.ModuleDict(members)
        self.method = method
        self.needs = [need for member in members.values() for need in member.needs]
        if method == "concat":
            self.projection = Projection(dim * len(members), dim, hidden, activation)

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Return the members' item vectors as tokens, ``[n, m, d]``."""
        return torch.stack([member(content) for member in self.members.values()], dim=1), None

    def forward(self, content: Content) -> Tensor:
        """Return fused item vectors ``[n, d]``."""
        vectors, _ = self.tokens(content)
        if self.method == "sum":
            return vectors.sum(dim=1)
        return self.projection(vectors.flatten(1))

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
