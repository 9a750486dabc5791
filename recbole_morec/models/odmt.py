"""ODMT (Ji et al., "Online Distillation-enhanced Multi-modal Transformer for Sequential
Recommendation", arXiv 2308.04067, ACM MM 2023).

Each item has three vectors, of its ID, its words and its picture
(:class:`~recbole_morec.item_encoders.id_aware.IdAwareEncoder`); each has a user encoder of its own.
Training adds the three in-batch cross-entropies and lets the branches teach each other
(:class:`~recbole_morec.objectives.online_distillation.OnlineDistillation`); a score is the mean of
the branches' dot products.

Differences from the authors' code: an ID table that starts from features is a copy of them unless
``tie_cls_feature``; heads of the item transformer are a setting; the last epoch is evaluated.

Options beyond the paper: the encoders' last layers may train (``train_layers``), teachers may be
detached, the divergence may be KL, the weight may rise by step, and the ensemble's weights may be
learned (``fusion_weights: learned`` adds the ensemble's own cross-entropy, which they learn from).
Ablations: ``branches``, ``item_transformer: False``, ``distillation_alpha: 0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec import parallel
from recbole_morec.item_encoders import ItemEncoder
from recbole_morec.item_encoders.id_aware import CONTENT, build_id_aware, stands_still
from recbole_morec.models.base import MultimodalRecommender, target_kind
from recbole_morec.objectives import positions
from recbole_morec.objectives.chunks import in_chunks
from recbole_morec.objectives.in_batch import own_items
from recbole_morec.objectives.online_distillation import Columns, OnlineDistillation
from recbole_morec.user_encoders import USER_ENCODERS, History, training_history
from recbole_morec.user_encoders.transformer import heads_problems

_LIVE = 4  # tensors of a branch's logits that the loss holds at a time, the teaching's with them


class ODMT(MultimodalRecommender):
    """Three branches that teach each other; see ``properties/model/ODMT.yaml``.

    Attributes:
        user_encoder: one user encoder per branch.
        distillation: the teaching.
    """

    chooses = ("user_encoder",)
    reads_whole_batch = True
    fuses = False

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        self.branches = self.item_encoder.branches
        make = USER_ENCODERS.get(config["user_encoder"]).from_config
        self.user_encoder = nn.ModuleDict({name: make(config, dataset) for name in self.branches})
        one = self.user_encoder[self.branches[0]]  # all are of one kind
        self._offset = one.offset
        self.targets = target_kind(config, one)
        self.share = None
        if config["fusion_weights"] == "learned":
            self.share = nn.Parameter(torch.zeros(len(self.branches)))
        self.distillation = OnlineDistillation(
            config["distillation_temperature"],
            config["distillation_alpha"],
            config["distillation_detach"],
            config["distillation_divergence"],
        )
        self.popularity_correction = config["popularity_correction"]
        self.mask_own_history = config["mask_own_history"]
        self.gather = config["gather_negatives"]
        self.ramp_by_step = config["distillation_ramp"] == "step"

    @classmethod
    def unfit_settings(cls, values: Mapping[str, Any]) -> list[str]:
        problems = []
        if values["item_transformer"]:
            problems = heads_problems(
                values["embedding_size"], values["item_transformer_heads"], "item_transformer_heads"
            )
        still = stands_still(values["train_layers"])
        if values["states_layer"] is not None and not still:
            problems.append("states_layer: the encoders must stand still; use train_layers=none.")
        if values["id_init"] != "random" and not still:
            problems.append(
                f"id_init={values['id_init']}: needs stored states; use train_layers=none."
            )
        if values["tie_cls_feature"] and values["id_init"] not in CONTENT:
            problems.append(
                f"tie_cls_feature=True: with id_init={values['id_init']} the ID's row is no first "
                "token; use id_init=text or image."
            )
        if values["store_states"] is True and not still:
            problems.append(
                "store_states=True: ODMT stores the states of encoders that stand still; use "
                "train_layers=none, or leave it at its default."
            )
        for key in ("pad_vector", "mask_vector"):
            if values[key] == "encoded":
                problems.append(
                    f"{key}=encoded: ODMT has stored states of its items alone; leave it at its "
                    "default."
                )
        if values["encode"] == "every_slot":
            problems.append("encode=every_slot: ODMT encodes distinct items only; leave it out.")
        if values["fusion_weights"] == "learned" and len(values["branches"]) == 1:
            problems.append("fusion_weights=learned: a single branch has nothing to share.")
        return problems

    def build_item_encoder(self, config: Any, dataset: Any, load_weights: bool) -> ItemEncoder:
        return build_id_aware(config, dataset, load_weights)

    def rows_by_id(self) -> frozenset[str]:
        names = super().rows_by_id() | {"item_encoder.embedding.weight"}
        if next(iter(self.user_encoder.values())).transferable:
            return names
        return names | {f"user_encoder.{name}" for name, _ in self.user_encoder.named_parameters()}

    def encode_users(self, vectors: Tensor, items: Tensor, user: Tensor) -> Tensor:
        """States ``[B, 3, d]`` of the branches, from vectors ``[B, L, 3, d]``."""
        states = [
            encoder(History(vectors[:, :, b], items, items > 0, user, "predict", newest_only=True))[
                :, -1
            ]
            for b, encoder in enumerate(self.user_encoder.values())
        ]
        return torch.stack(states, 1)

    def score(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Scores ``[B, n]`` of the ensemble and of every branch.

        Args:
            users: ``[B, 3, d]``.
            items: ``[n, 3, d]``.
        """
        alone = {name: users[:, b] @ items[:, b].T for b, name in enumerate(self.branches)}
        if len(alone) == 1:
            return alone
        return {"ensemble": self._ensemble(alone), **alone}

    def _ensemble(self, scores: dict[str, Tensor]) -> Tensor:
        """The mean of the branches, or their weighted mean (``fusion_weights: learned``)."""
        if self.share is None:
            return sum(scores.values()) / len(scores)
        shares = zip(self.share.softmax(0), scores.values(), strict=True)
        return sum(share * each for share, each in shares)

    def calculate_loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The parts of this process's share of the loss, by name."""
        batch, vectors = self.encode_batch(batch)  # [1 + n, 3, d]
        predicted = positions(batch, self._offset)
        columns, items, bias = self._columns(batch, predicted, vectors[1:])
        states = []
        for b, encoder in enumerate(self.user_encoder.values()):
            history = training_history(batch, vectors[:, b], encoder)
            every = encoder(history) if len(batch["item_seq"]) else history.vectors
            states.append(every[predicted.row, predicted.slot])  # [M, d]
        weight = self.distillation.weight(self._epoch(batch))
        weight = weight if self.distillation.teaches(self.branches) else 0.0

        def terms(h: Tensor, log_count: Tensor, label: Tensor) -> Tensor:
            some = Columns(log_count, label)
            logits = {
                name: h[:, b] @ items[:, b].T + bias for b, name in enumerate(self.branches)
            }  # [m, n]
            found = [some.cross_entropy(each) for each in logits.values()]
            if self.share is not None:  # what the shares learn from
                found.append(some.cross_entropy(self._ensemble(logits)))
            if weight:
                taught = self.distillation.terms(logits, self._ensemble(logits), some)
                found.append(weight * sum(taught.values()))
            return torch.stack(found, 1)

        rows = (torch.stack(states, 1), columns.log_count, columns.label)
        found = in_chunks(terms, rows, _LIVE * len(self.branches) * len(items))
        names = [f"{name}_loss" for name in self.branches]
        names += ["ensemble_loss"] if self.share is not None else []
        names += ["distillation"] if weight else []
        count = max(int(batch["global_terms"]), 1)
        parts = dict(zip(names, found.sum(0) / count, strict=True))
        if len(batch["item_seq"]) == 0:
            first = f"{self.branches[0]}_loss"  # all processes name the same parts
            parts[first] = parts[first] + self.nothing()
        return parts

    def _epoch(self, batch: dict[str, Any]) -> float:
        """Epochs from 1, whole or (``distillation_ramp: step``) as far as the step has come."""
        if self.ramp_by_step:
            return batch["epoch"] + (batch["step"] + 1) / batch["steps"]
        return batch["epoch"] + 1

    def _columns(
        self, batch: dict[str, Any], predicted: Any, own: Tensor
    ) -> tuple[Columns, Tensor, Tensor]:
        """The columns of the logits, their item vectors ``[n, 3, d]`` and ``- a log p`` ``[n]``."""
        items, count = batch["content"]["items"], batch["slot_count"]
        bias = -self.popularity_correction * batch["log_popularity"]
        vectors, first = own, 0
        if self.gather and parallel.world_size() > 1:
            vectors, sizes = parallel.gather_rows_with_gradient(own)
            items, count, bias = (parallel.gather_rows(x, sizes) for x in (items, count, bias))
            first = sum(sizes[: parallel.rank()])
        log_count = count.log().expand(len(predicted.row), -1)  # an item in no slot is barred
        label = predicted.label - 1 + first
        if self.mask_own_history:
            barred = own_items(batch["item_seq"], items)[predicted.row]
            log_count = log_count.masked_fill(barred, float("-inf"))
            # The label's own slot is never barred, and it is a single slot.
            log_count = log_count.scatter(1, label[:, None], 0.0)
        return Columns(log_count, label), vectors, bias
