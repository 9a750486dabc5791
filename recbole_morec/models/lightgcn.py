"""LightGCN (He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
Recommendation", SIGIR 2020), on the vectors of any item encoder.

Users and items are the nodes of a graph, the training interactions its edges. From vectors
``e^(0)`` of users (a table) and items (the item encoder) every layer takes weighted sums over
neighbours, and a node's vector is the mean of its layers (their equations 3, 4 and 11)::

    e_u^(k+1) = sum_i e_i^(k) / sqrt(|N_u| |N_i|),    e_u = (e_u^(0) + ... + e_u^(K)) / (K + 1)

and likewise for items; the score is ``e_u . e_i``. Training: BPR over all pairs of a user and a
training item, negatives outside the user's history. ``n_layers`` is K.

Each step needs the vectors of all items (``encodes: catalogue``): the item encoder is ``id``,
``features``, ``codes``, a frozen one (encoded once), or one that may encode ``catalogue_per_step``
items in each step. With ``item_encoder: id`` it is the published model; with content, cold items
have a vector too, that of layer 0 alone.

Differences from the authors' code: repeated interactions are separate edges and BPR's epsilon
stands outside of the logarithm, as in PixelRec; weight decay replaces the loss's L2 term, as there.
RecBole's own is ``recbole:LightGCN``.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.models.base import MultimodalSequential
from recbole_morec.objectives import positions
from recbole_morec.user_encoders import UserEncoder
from recbole_morec.user_encoders.user_id import UserID

# Products with dense matrices, all that is used here, are long stable.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


class LightGCN(MultimodalSequential):
    """Propagation over the training graph; see ``properties/model/LightGCN.yaml``.

    The graph is made from the dataset anew each time; checkpoints do not hold it.

    Attributes:
        layers: K.
        spread_users: propagated users ``[U, d]`` of an evaluation, see :meth:`set_catalogue`.
    """

    chooses = ("objective",)
    encodes = "catalogue"

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        self.encodes = "catalogue"  # whatever the objective
        self.layers = config["n_layers"]
        self.user_num, self.item_num = dataset.user_num, dataset.item_num
        graph = training_graph(dataset)
        # As plain buffers: processes exchange those when they start, and cannot do so with sparse
        # tensors.
        index = torch.int32 if graph.nnz < 2**31 else torch.int64
        parts = {"graph_rows": graph.indptr, "graph_columns": graph.indices}
        for name, part in parts.items():
            self.register_buffer(name, torch.as_tensor(part).to(index), persistent=False)
        weights = torch.as_tensor(graph.data).to(torch.get_default_dtype())
        self.register_buffer("graph_weights", weights, persistent=False)
        self.spread_users: Tensor | None = None

    def build_user_encoder(self, config: Any, dataset: Any) -> UserEncoder:
        super().build_user_encoder(config, dataset)  # for its check of sizes
        return UserID.from_config(config, dataset)

    def propagate(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of users ``[U, d]`` and items ``[N, d]`` out of the items' own ``[N, d]``."""
        users = self.user_encoder.tower(self.user_encoder.embedding.weight)
        with torch.autocast(items.device.type, enabled=False):
            x = torch.cat([users, items]).to(self.graph_weights.dtype)  # [U + N, d]
            graph = torch.sparse_csr_tensor(
                self.graph_rows, self.graph_columns, self.graph_weights, (len(x), len(x)),
                check_invariants=False,
            )  # fmt: skip
            total = x
            for _ in range(self.layers):
                x = _Neighbours.apply(graph, x)
                total = total + x
        mean = total / (self.layers + 1)
        return mean[: self.user_num], mean[self.user_num :]

    def calculate_loss(self, batch: dict[str, Any]) -> Tensor:
        batch, vectors = self.encode_batch(batch)  # [1 + n, d]: padding, then all candidates
        ids = F.pad(batch["content"]["items"], (1, 0))
        own = vectors.new_zeros(self.item_num, vectors.shape[1]).index_copy(0, ids, vectors)
        users, items = self.propagate(own)
        slots = batch["item_seq"].shape[1]
        states = users[batch["user"]][:, None].expand(-1, slots, -1)
        loss = self.objective(states, positions(batch, 0), items[ids], batch)
        return loss if len(batch["item_seq"]) else loss + self.nothing()

    @torch.no_grad()
    def set_catalogue(self, catalogue: Tensor) -> None:
        """Propagate the item vectors ``[N, d]`` of an evaluation."""
        super().set_catalogue(catalogue)
        self.spread_users, self.catalogue = self.propagate(catalogue)

    def encode_users(self, vectors: Tensor, items: Tensor, user: Tensor) -> Tensor:
        """Propagated vectors ``[B, d]`` of users."""
        return self.spread_users[user]


def training_graph(dataset: Any) -> sp.csr_matrix:
    """Adjacency ``[U + N, U + N]`` of users and items, ``1 / sqrt(|N_u| |N_i|)`` for every training
    interaction; those that repeat add up.

    Args:
        dataset: has ``histories``, ``splits``, ``user_num`` and ``item_num``.
    """
    histories = dataset.histories
    trained = dataset.splits.training_mask(len(histories.items))
    user = np.repeat(np.arange(dataset.user_num), histories.lengths)[trained]
    item = np.asarray(histories.items)[trained]
    of_user = np.bincount(user, minlength=dataset.user_num)
    of_item = np.bincount(item, minlength=dataset.item_num)
    weight = 1.0 / np.sqrt(of_user[user] * of_item[item].astype(np.float64))
    pairs = sp.coo_matrix((weight, (user, item)), shape=(dataset.user_num, dataset.item_num))
    pairs = pairs.tocsr()
    return sp.bmat([[None, pairs], [pairs.T, None]], format="csr")


class _Neighbours(torch.autograd.Function):
    """``A x`` of a symmetric sparse ``A``, whose gradient takes the same product."""

    @staticmethod
    def forward(ctx: Any, graph: Tensor, x: Tensor) -> Tensor:
        ctx.graph = graph
        return graph @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        with torch.autocast(gradient.device.type, enabled=False):
            return None, ctx.graph @ gradient.contiguous()
