"""IDvs.MoRec's evaluation of cold and of new items: our scores and ranks give its figures."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_morec.evaluation.ranking import rank_targets

from . import test_item_encoders as items
from .conftest import Golden, close
from .test_models import Model, build, morec_sasrec

NAME = "idvsmorec/cold_and_new_item_eval"
BEST = 10


def percent(rank: Tensor) -> Tensor:
    """Hit and NDCG at 10 in percent, as the published code logs them."""
    hit = (rank <= BEST).double()
    return 100 * torch.stack([hit.mean(), (hit / torch.log2(rank + 1.0)).mean()])


def ranks(scores: Tensor, history: Tensor, target: Tensor, warm: Tensor):
    allowed = torch.ones_like(scores) > 0
    allowed[torch.arange(len(history))[:, None], history] = False
    allowed[:, 0] = False
    order = torch.arange(scores.shape[1])
    return rank_targets(scores, target, allowed, warm, order)


@torch.no_grad()
def test_cold_and_new_items(golden, tmp_path):
    data: Golden = golden(NAME)
    known = len(data.tensor("out/item_emb_all"))
    model = build(Model(NAME, morec_sasrec, "in_batch"), data, tmp_path, known).eval()
    vectors = model.encode_items(items.content_of(data, torch.arange(1, known)))
    catalogue = torch.cat([torch.zeros_like(vectors[:1]), vectors])
    close(vectors, data.tensor("out/item_emb_all")[1:], 1e-6, 1e-6)

    cold = data.tensor("in/cold_seq")
    read, target = cold[:, :-1], cold[:, -1]
    users = model.encode_users(catalogue[read], read, read[:, 0])
    found = ranks(model.score(users, catalogue), read, target, torch.ones(known) > 0)
    close(percent(found.rank), data.tensor("out/cold_hr10_ndcg10_percent"), 0, 1e-5)

    # New items: each user's own against all known ones, which is our group `new_item`.
    text = data.tensor("in/new_item_text")
    ids, mask = text.chunk(2, dim=1)
    content = {"items": torch.arange(len(text)), "text_ids": ids, "text_mask": mask > 0}
    new = model.encode_items({key: value[1:] for key, value in content.items()})
    close(new, data.tensor("out/new_item_emb")[1:], 1e-6, 1e-6)
    everything = torch.cat([catalogue, new])
    warm = torch.arange(len(everything)) < known
    read, target = data.tensor("in/new_seq"), data.tensor("in/new_target")
    users = model.encode_users(catalogue[read], read, read[:, 0])
    found = ranks(model.score(users, everything), read, known - 1 + target, warm)
    close(percent(found.new_item), data.tensor("out/new_hr10_ndcg10_percent"), 0, 1e-5)
