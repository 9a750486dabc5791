"""A stand-in for ``nn.Embedding`` whose item rows come from an item encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_morec.errors import MoRecError


class ItemVectors:
    """The item vectors that the tables of a model read at the moment.

    Those of one training step, of its batch or of all items, or those of an evaluation. They are
    no parameters and no buffers: no checkpoint holds them.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.items: Tensor | None = None
        self._derived: dict[ContentEmbedding, tuple[Tensor, Tensor | None]] = {}

    def show(self, rows: Tensor, items: Tensor | None = None) -> None:
        """Let the tables read these vectors until the next call.

        Args:
            rows: ``[1 + n, d]``, row 0 is padding.
            items: ids ``[n]`` of the rows behind it; ``None`` = all items in order.
        """
        self.clear()
        # A table has the precision of its parameters, whatever autocast makes of the encoder.
        half = rows.dtype in (torch.float16, torch.bfloat16)
        self.rows, self.items = rows.float() if half else rows, items

    def clear(self) -> None:
        """Forget them (and, in training, the graph that they hang on)."""
        self.rows = self.items = None
        self._derived.clear()

    def derived(
        self,
        table: ContentEmbedding,
        make: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]],
    ) -> tuple[Tensor, Tensor | None]:
        """What ``table`` makes of them, made once."""
        if self.rows is None:
            raise MoRecError(
                "This model's item vectors come from an item encoder and have not been encoded; "
                "ask its adapter for the loss, or call prepare() of its scorer before scores."
            )
        if table not in self._derived:
            self._derived[table] = make(self.rows, self.items)
        return self._derived[table]


class ContentEmbedding(nn.Module):
    """Looks item vectors up by id, as the ``nn.Embedding`` that it replaces.

    Padding (id 0) is the zero vector, in a softmax over the table too. Rows behind the items, such
    as a mask token's, stay parameters with the values that they had.

    Args:
        table: the replaced table, ``[R, d]`` with ``R >= item_num``.
        vectors: where the item vectors are; tables of one model share it.
        item_num: N, padding included.
        linear: give the table a space of its own: a linear map of the vectors, the identity at the
            start. For models with several item tables.
        partial: ``weight`` may be read while the vectors are those of a batch, since the loss
            multiplies it by zero; items outside the batch are zero there.

    Attributes:
        num_embeddings, embedding_dim, padding_idx: as of the replaced table.
        bias: ``None``, as models set it that use a table for a linear layer.
        rest: the rows behind the items ``[R - N, d]``, or ``None``.
        map: the linear map, or ``None``.
    """

    def __init__(
        self,
        table: nn.Embedding,
        vectors: ItemVectors,
        item_num: int,
        *,
        linear: bool = False,
        partial: bool = False,
    ):
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.weight.shape
        self.padding_idx = table.padding_idx
        self.bias = None
        self._item_num = item_num
        self._vectors = vectors
        self._partial = partial
        rest = table.weight.detach()[item_num:].clone()
        self.rest = nn.Parameter(rest) if len(rest) else None
        self.map = nn.Linear(self.embedding_dim, self.embedding_dim, bias=False) if linear else None
        if self.map is not None:
            nn.init.eye_(self.map.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids ``[...]`` -> vectors ``[..., d]``.

        Raises:
            IndexError: an item that is not among the vectors (on a GPU an assertion of the device).
        """
        rows, place = self._read()
        return F.embedding(ids if place is None else place[ids], rows)

    @property
    def weight(self) -> Tensor:
        """The table ``[R, d]``.

        Raises:
            MoRecError: only the vectors of a batch are there.
        """
        rows, place = self._read()
        if place is None:
            return rows
        if not self._partial:
            raise MoRecError(
                "The loss reads the vectors of all items, and only those of the batch are encoded: "
                "recbole_morec.models.stock_tables.whole_table has to name this model."
            )
        return F.embedding(torch.where(place < len(rows), place, 0), rows)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, rows of an item encoder"

    def _read(self) -> tuple[Tensor, Tensor | None]:
        """Vectors ``[.., d]``, and the row of each id ``[R]``; ``None`` = its own number."""
        return self._vectors.derived(self, self._make)

    def _make(self, rows: Tensor, items: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.map is not None:
            rows = self.map(rows).to(rows.dtype)
        count = len(rows)
        if self.rest is not None:
            rows = torch.cat([rows, self.rest])
        if items is None:
            return rows, None
        # An id without a row points behind the last one, where no look-up can find anything.
        place = torch.full((self.num_embeddings,), len(rows), device=rows.device)
        place[0] = 0
        place[items] = torch.arange(1, count, device=rows.device)
        place[self._item_num :] = torch.arange(count, len(rows), device=rows.device)
        return rows, place
