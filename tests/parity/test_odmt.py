"""ODMT: item vectors, states, logits, the parts of the loss, gradients and scores as published."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.item_encoders.id_aware import IdAwareEncoder
from recbole_morec.item_encoders.id_aware_transformer import BRANCHES, IdAwareTransformer
from recbole_morec.models.odmt import ODMT
from recbole_morec.objectives import positions
from recbole_morec.objectives.online_distillation import Columns, OnlineDistillation
from recbole_morec.transfer.published import our_state, published_names
from recbole_morec.user_encoders import training_history

from .conftest import Golden, close

NAMES = [
    "odmt_v1_init0",
    "odmt_v1_init1_const_alpha",
    "odmt_v1_init2_aliased",
    "odmt_v1_init3_aliased",
    "odmt_v1_no_distillation",
    "odmt_v3_init0",
]


class OnTables(ODMT):
    """ODMT on token features that are given, without a store of them."""

    def build_item_encoder(self, config, dataset, load_weights):
        sizes = dataset.sizes
        widths = {branch: sizes[f"{branch}_embedding_dim"] for branch in BRANCHES}
        transformer = IdAwareTransformer(
            sizes["embedding_dim"], widths,
            layers=sizes["merged_att_layers"], heads=sizes["merged_att_layers"],
            dropout=0.0, version="v1" if sizes["version"] == "v1" else "full",
        )  # fmt: skip
        dim = sizes["embedding_dim"]
        return IdAwareEncoder("odmt", dataset.item_num, dim, widths, transformer=transformer)


def build(golden: Golden) -> ODMT:
    sizes = golden.sizes
    overrides = {
        "embedding_size": sizes["embedding_dim"], "MAX_ITEM_LIST_LENGTH": sizes["max_seq_len"],
        "n_layers": sizes["transformer_block"], "n_heads": sizes["num_attention_heads"],
        "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "distillation_alpha": sizes["alpha"],
        "distillation_temperature": sizes["tau"], "attention_bias": False, "hidden_act": "relu",
        "layer_norm_eps": 1e-6,
    }  # fmt: skip
    config = MoRecConfig("ODMT", "odmt", overrides=overrides)
    config["device"] = torch.device("cpu")
    dataset = SimpleNamespace(
        item_num=sizes["item_num"] + 1, user_num=9, sizes=sizes, num=lambda field: 0
    )
    model = OnTables(config, dataset)
    state, unknown = our_state(golden.state({"": ""}), model.state_dict())
    assert not unknown
    model.load_state_dict(state)
    return model


def content(golden: Golden, items: torch.Tensor) -> dict[str, torch.Tensor]:
    words = golden.sizes["num_words_title"]
    image = golden.tensor("in/v_feat")[items]
    return {
        "items": items,
        "text_states": golden.tensor("in/t_feat")[items],
        "text_states_mask": golden.tensor("in/item_text")[items, words:] > 0,
        "image_states": image,
        "image_states_mask": torch.ones(image.shape[:2], dtype=torch.bool),
    }


def batch_of(golden: Golden, epoch: int) -> dict:
    seq = golden.tensor("in/train_item_seq")
    items, index = seq.unique(return_inverse=True)
    assert items[0] == 0
    items = items[1:]
    target = seq > 0
    target[:, 1:] &= seq[:, :-1] > 0
    target[:, 0] = False
    return {
        "user": torch.zeros(len(seq), dtype=torch.long),
        "item_seq": seq,
        "mask": seq > 0,
        "target": target,
        "newest_only": False,
        "item_index": index,
        "content": content(golden, items),
        "slot_count": torch.bincount(index.flatten())[1:].double(),
        "log_popularity": golden.tensor("in/pop_prob")[items].log(),
        "global_rows": len(seq),
        "global_terms": int(target.sum()),
        "epoch": epoch - 1,
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plain", [True, False])
def test_loss_gradients_and_scores(golden, name, plain):
    data = golden(f"odmt/{name}")
    model = build(data)
    model.item_encoder.transformer.plain = plain
    for epoch in data.sizes["epochs"]:
        model.train()
        model.zero_grad()
        parts = model.calculate_loss(batch_of(data, epoch))
        entropy = sum(parts[f"{branch}_loss"] for branch in BRANCHES)
        close(entropy, data.tensor(f"out/ce_epoch{epoch}"))
        taught = parts.get("distillation", torch.zeros(()))
        close(taught, data.tensor(f"out/kl_epoch{epoch}"))
        weight = data.tensor(f"out/kd_weight_epoch{epoch}").item()
        assert model.distillation.weight(epoch) == pytest.approx(weight)
    for branch in BRANCHES:
        close(parts[f"{branch}_loss"], data.tensor(f"out/ce_{branch}"))
    loss = sum(parts.values())
    close(loss, data.tensor("out/loss"))
    loss.backward()
    ours = dict(model.named_parameters())
    gradients = data.gradient_norms()
    names = published_names(data.facts["parameters"])
    assert set(names.values()) == ours.keys()
    for key, norm in gradients.items():
        assert ours[names[key]].grad.norm().item() == pytest.approx(norm, rel=1e-7), key

    catalogue, ours = scores(model, data)
    for b, branch in enumerate(BRANCHES):
        close(catalogue[:, b], data.tensor(f"out/item_emb_{branch}"))
        close(ours[branch], data.tensor(f"out/scores_{branch}"))
    close(ours["ensemble"], data.tensor("out/scores_final"))


@torch.no_grad()
def scores(model: ODMT, data: Golden) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Item vectors ``[N, 3, d]``, and scores ``[U, N]`` of every branch."""
    model.eval()
    catalogue = model.encode_items(content(data, torch.arange(data.sizes["item_num"] + 1)))
    history = data.tensor("in/eval_item_seq")
    users = model.encode_users(catalogue[history], history, history[:, 0])
    return catalogue, model.score(users, catalogue)


@pytest.mark.parametrize("name", NAMES)
def test_item_vectors_states_and_logits_of_every_slot(golden, name):
    data = golden(f"odmt/{name}")
    model = build(data).train()
    batch = batch_of(data, data.sizes["epochs"][-1])
    seq, items = batch["item_seq"], batch["content"]["items"]
    row = (
        batch["item_index"].flatten() - 1
    )  # of every slot among the items; padding is compared not
    real = row >= 0
    read = model.item_encoder.transformer(
        model.item_encoder.embedding(items), batch["content"]["text_states"],
        batch["content"]["text_states_mask"], batch["content"]["image_states"],
    )  # fmt: skip
    encoded = model.encode_items(batch["content"])
    vectors = torch.cat([torch.zeros_like(encoded[:1]), encoded])
    predicted = positions(batch, 1)
    columns, _, bias = model._columns(batch, predicted, encoded)
    valid = data.tensor("out/valid_rows").bool()
    for b, branch in enumerate(BRANCHES):
        close(read[row[real], b], data.tensor(f"out/imt_{branch}")[real])
        close(encoded[row[real], b], data.tensor(f"out/slot_{branch}_vec")[real])
        encoder = model.user_encoder[branch]
        states = encoder(training_history(batch, vectors[:, b], encoder))
        close(states[valid], data.tensor(f"out/{branch}_user_states")[valid])
        logits = states[predicted.row, predicted.slot] @ encoded[:, b].T + bias
        published = data.tensor(f"out/logits_{branch}")
        allowed = published > -1e3  # barred slots hold -1e4
        close(logits[:, row][allowed], published[allowed])
        counted = (columns.log_count > float("-inf"))[:, row] & real
        assert torch.equal(counted.any(1), allowed.any(1))
    assert seq.numel() == len(row)


def first_tokens(encoder: IdAwareEncoder, data: Golden) -> torch.Tensor:
    """The first token ``[N, D]`` of every item, of the modality that the IDs start from."""
    items = torch.arange(data.sizes["item_num"] + 1)
    states, _ = encoder._states(content(data, items), encoder.embedding(items))
    return states[{2: "image", 3: "text"}[data.sizes["init"]]][:, 0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tied", [True, False])
def test_losses_and_features_of_optimiser_steps(golden, name, tied):
    data = golden(f"odmt/{name}")
    key = "out/losses_aliased" if tied else "out/losses_not_aliased"
    if key not in data:
        pytest.skip("no steps were published")
    moved = data.tensor("out/aliased_feature_after_2_steps")
    told = data.facts["outputs"]["out/losses_aliased"]["meaning"]
    (rate,), (decay,) = (re.findall(rf"{word} ([\d.e-]+)", told) for word in ("lr", "decay"))
    (largest,) = re.findall(r"clipped to ([\d.]*\d)", told)
    model = build(data).train()
    model.item_encoder.tied = {2: "image", 3: "text"}[data.sizes["init"]] if tied else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(rate), weight_decay=float(decay))
    batch = batch_of(data, data.sizes["epochs"][-1])
    for step, expected in enumerate(data.tensor(key)):
        if step == 2:
            first = first_tokens(model.item_encoder, data)
            assert torch.allclose(first[1:], moved[1:], rtol=1e-6, atol=1e-6) == tied
        loss = sum(model.calculate_loss(batch).values())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), float(largest))
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_terms_of_the_distillation(golden, name):
    data = golden(f"odmt/{name}")
    if "out/kd_text_from_id" not in data:
        pytest.skip("trained without distillation")
    labels = data.tensor("out/labels")
    logits = {branch: data.tensor(f"out/logits_{branch}") for branch in BRANCHES}
    # One column per slot, as published: barred ones hold -1e4.
    barred = logits["id"] <= -1e3
    columns = Columns(torch.zeros_like(logits["id"]).masked_fill(barred, float("-inf")), labels)
    for branch, each in logits.items():
        close(columns.cross_entropy(each).mean(), data.tensor(f"out/ce_{branch}"))
    sizes = data.sizes
    terms = OnlineDistillation(sizes["tau"], sizes["alpha"]).terms(
        logits, sum(logits.values()) / 3, columns
    )
    for name, term in terms.items():
        close(term.mean(), data.tensor(f"out/kd_{name}"))
