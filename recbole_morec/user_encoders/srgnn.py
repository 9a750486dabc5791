"""SR-GNN (Wu et al., AAAI 2019) on item vectors, as PixelRec runs it.

The distinct items of a history are nodes, each step from an item to the next one an edge; a gated
graph network turns item vectors into node states ``v``. With the newest item's state ``v_n``:
``a_t = q^T sigmoid(W_1 v_n + W_2 v_t)`` (not normalised), state = ``W_3 [sum_t a_t v_t ; v_n]``.

RecBole's SR-GNN keeps ``1 - z`` of a node where this one, as its authors wrote it, keeps ``z``.

Differences from the authors' code: histories are padded on the left and graphs are built in one
piece on the device (padding is a node without edges, as there, and no real slot reads it); the edge
layer that it creates and never uses is left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.user_encoders.base import USER_ENCODERS
from recbole_morec.user_encoders.prefixes import PrefixEncoder


@USER_ENCODERS.register("SRGNN")
class SRGNN(PrefixEncoder):
    """Session graph over item vectors; it reads which items are the same.

    Args:
        dim: d, size of item vectors and states.
        step: rounds of the gated graph network.
    """

    reads = frozenset({"step"})

    def __init__(self, dim: int, *, step: int = 2):
        super().__init__()
        self.gnn = _GatedGraph(dim, step)
        self.newest = nn.Linear(dim, dim)
        self.each = nn.Linear(dim, dim)
        self.weight = nn.Linear(dim, 1, bias=False)
        self.output = nn.Linear(2 * dim, dim)
        bound = 1 / math.sqrt(dim)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> SRGNN:
        return cls(config["embedding_size"], step=config["step"])

    def encode(self, vectors: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        node, first = session_nodes(items)  # [P, L] both
        index = first[..., None].expand_as(vectors)
        states = self.gnn(adjacency(node, mask).to(vectors.dtype), vectors.gather(1, index))
        states = states.gather(1, node[..., None].expand_as(states))  # of every slot
        newest = states[:, -1]
        gate = torch.sigmoid(self.newest(newest)[:, None] + self.each(states))
        alpha = self.weight(gate) * mask[..., None]  # [P, L, 1]
        pooled = (alpha * states).sum(1)
        return self.output(torch.cat([pooled, newest], dim=1))


class _GatedGraph(nn.Module):
    """Rounds of ``v <- GRU([A_in (W v + b) + b_in ; A_out (W' v + b') + b_out], v)``."""

    def __init__(self, dim: int, step: int):
        super().__init__()
        self.step = step
        self.incoming, self.outgoing = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.incoming_bias = nn.Parameter(torch.empty(dim))
        self.outgoing_bias = nn.Parameter(torch.empty(dim))
        self.gate = nn.GRUCell(2 * dim, dim)

    def forward(self, edges: Tensor, nodes: Tensor) -> Tensor:
        """``[P, L, 2 L]``, ``[P, L, d]`` -> ``[P, L, d]``."""
        incoming, outgoing = edges.chunk(2, dim=2)
        for _ in range(self.step):
            told = [
                incoming @ self.incoming(nodes) + self.incoming_bias,
                outgoing @ self.outgoing(nodes) + self.outgoing_bias,
            ]
            read = torch.cat(told, dim=2).flatten(0, 1)
            nodes = self.gate(read, nodes.flatten(0, 1)).view_as(nodes)
        return nodes


def session_nodes(items: Tensor) -> tuple[Tensor, Tensor]:
    """The node of every slot, and a slot of every node (0 where there are fewer nodes than slots).

    Nodes are the distinct ids of a row in ascending order.

    Args:
        items: ``[P, L]``.

    Returns:
        Both ``[P, L]``.
    """
    ordered, slot = items.sort(dim=1, stable=True)
    new = torch.ones_like(ordered)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = new.cumsum(1) - 1
    node = torch.zeros_like(items).scatter(1, slot, rank)
    return node, torch.zeros_like(items).scatter(1, rank, slot)


def adjacency(node: Tensor, mask: Tensor) -> Tensor:
    """Normalised incoming and outgoing edges ``[P, L, 2 L]`` of session graphs.

    Repeated steps between two items count once.

    Args:
        node: node of every slot ``[P, L]``.
        mask: ``[P, L]``, True at real items, which stand at the end of a row.
    """
    rows, length = node.shape
    edges = torch.zeros(rows, length, length, device=node.device)
    row, slot = torch.nonzero(mask[:, :-1] & mask[:, 1:], as_tuple=True)
    edges[row, node[row, slot], node[row, slot + 1]] = 1.0
    incoming = edges / edges.sum(1, keepdim=True).clamp_min(1.0)
    outgoing = edges / edges.sum(2, keepdim=True).clamp_min(1.0)
    return torch.cat([incoming.transpose(1, 2), outgoing], dim=2)
