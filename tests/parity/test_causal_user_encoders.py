"""SASRec, GRU4Rec and NextItNet on item ids: states, losses, gradients and scores as published."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from recbole_morec.objectives import positions
from recbole_morec.objectives.bce import BCE
from recbole_morec.objectives.bpr import BPR
from recbole_morec.objectives.in_batch import InBatch
from recbole_morec.user_encoders import History
from recbole_morec.user_encoders.gru4rec import GRU4Rec
from recbole_morec.user_encoders.nextitnet import NextItNet
from recbole_morec.user_encoders.sasrec import SASRec

from .conftest import Golden, close

PIXELREC_BLOCK = "trm_encoder."
MOREC = "user_encoder.transformer_encoder."


def pixelrec_sasrec(golden: Golden) -> SASRec:
    sizes = golden.sizes
    return SASRec(
        sizes["embedding_size"], sizes["MAX_ITEM_LIST_LENGTH"],
        n_layers=sizes["n_layers"], n_heads=sizes["n_heads"],
        inner_size=sizes["inner_size"] * sizes["embedding_size"],
        hidden_dropout_prob=0, attn_dropout_prob=0,
        hidden_act=sizes["hidden_act"], layer_norm_eps=sizes["layer_norm_eps"],
    )  # fmt: skip


def morec_sasrec(golden: Golden) -> SASRec:
    sizes = golden.sizes
    return SASRec(
        sizes["embedding_dim"], sizes["max_seq_len"],
        n_layers=sizes["transformer_block"], n_heads=sizes["num_attention_heads"],
        hidden_dropout_prob=0, attn_dropout_prob=0,
        hidden_act="relu", layer_norm_eps=1e-6, attention_bias=False, initializer="xavier_normal",
    )  # fmt: skip


def pixelrec_gru4rec(golden: Golden) -> GRU4Rec:
    sizes = golden.sizes
    return GRU4Rec(
        sizes["embedding_size"],
        n_layers=sizes["num_layers"],
        hidden_multiplier=sizes["hidden_size"],
    )


def ninerec_gru4rec(golden: Golden) -> GRU4Rec:
    sizes = golden.sizes
    return GRU4Rec(sizes["embedding_dim"], n_layers=sizes["block_num"], output_layer=False)


def nextitnet(golden: Golden) -> NextItNet:
    sizes = golden.sizes
    return NextItNet(
        sizes["embedding_size"],
        kernel_size=sizes["kernel_size"],
        block_num=sizes["block_num"],
        dilations=sizes["dilations"],
        output_layer=sizes["final_layer"],
    )


SASREC_NAMES = {
    "position_embedding.": "positions.",
    "LayerNorm.": "norm.",
    PIXELREC_BLOCK: "layers.",
}


def morec_names(blocks: int) -> dict[str, str]:
    names = {f"{MOREC}position_embedding.": "positions.", f"{MOREC}layer_norm.": "norm."}
    for k in range(blocks):
        theirs, ours = f"{MOREC}transformer_blocks.{k}.", f"layers.layer.{k}."
        attention, feed = f"{theirs}multi_head_attention.", f"{theirs}feed_forward."
        for a, b in (("w_Q", "query"), ("w_K", "key"), ("w_V", "value"), ("fc", "dense")):
            names[f"{attention}{a}."] = f"{ours}multi_head_attention.{b}."
        names[f"{attention}layer_norm."] = f"{ours}multi_head_attention.LayerNorm."
        names[f"{feed}w_1."] = f"{ours}feed_forward.dense_1."
        names[f"{feed}w_2."] = f"{ours}feed_forward.dense_2."
        names[f"{feed}layer_norm."] = f"{ours}feed_forward.LayerNorm."
    return names


@dataclass
class Case:
    name: str
    build: callable
    objective: callable
    names: dict[str, str]
    table: str


CASES = [
    Case("pixelrec/sasrec", pixelrec_sasrec, BPR, SASREC_NAMES, "item_embedding.weight"),
    Case(
        "pixelrec/gru4rec", pixelrec_gru4rec, BPR,
        {"gru_layers.": "gru.", "dense.": "output."}, "item_embedding.weight",
    ),
    Case(
        "pixelrec/nextitnet", nextitnet, BPR,
        {"residual_blocks.": "blocks."}, "item_embedding.weight",
    ),
    Case(
        "pixelrec/nextitnet_final_layer", nextitnet, BPR,
        {"residual_blocks.": "blocks.", "final_layer.": "output."}, "item_embedding.weight",
    ),
    Case("idvsmorec/inbatch_id", morec_sasrec, InBatch, morec_names(2), "id_embedding.weight"),
    Case("idvsmorec/bce_id", morec_sasrec, BCE, morec_names(2), "id_embedding.weight"),
    Case(
        "ninerec/gru4rec_id", ninerec_gru4rec, BCE,
        {"user_encoder.gru_layers.": "gru."}, "id_embedding.weight",
    ),
]  # fmt: skip


def batch_of(golden: Golden, items: int) -> dict[str, Tensor]:
    """The published training batch in our form: PixelRec's, IDvs.MoRec's or NineRec's."""
    negative = None
    if "in/train_item_seq" in golden:
        seq = golden.tensor("in/train_item_seq")  # [B, L+1]
    elif golden.facts["system"] == "pixelrec":
        seq, drawn = golden.tensor("in/train_items").unbind(1)
        negative = drawn[..., None]  # aligned with the target
    else:
        seq, drawn = golden.tensor("in/train_items").unbind(2)
        negative = drawn.roll(1, dims=1)[..., None]  # aligned with the input
    target = seq > 0
    target[:, 1:] &= seq[:, :-1] > 0
    target[:, 0] = False
    batch = {
        "item_seq": seq,
        "mask": seq > 0,
        "item_index": seq,  # every item of the catalogue is in the table, in order
        "content": {"items": torch.arange(1, items)},
        "slot_count": torch.bincount(seq.flatten(), minlength=items)[1:].double(),
        "global_rows": len(seq),
        "target": target,
        "global_terms": int(target.sum()),
    }
    if negative is not None:
        batch["negative_index"] = negative
    if "in/pop_prob" in golden:
        batch["log_popularity"] = golden.tensor("in/pop_prob")[1:].log()
    return batch


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_states_loss_gradients_and_scores(golden, case):
    data = golden(case.name)
    table = nn.Parameter(data.tensor(f"param/{case.table}"))
    encoder = case.build(data)
    encoder.load_state_dict(data.state(case.names), strict=True)
    batch = batch_of(data, len(table))
    inputs = batch["item_seq"][:, :-1]
    user = torch.zeros(len(inputs), dtype=torch.long)

    encoder.train()
    states = encoder(History(table[inputs], inputs, inputs > 0, user, "train"))
    valid = data.tensor("out/valid_rows").bool()
    close(states[valid], data.tensor("out/seq_output")[valid])
    loss = case.objective()(states, positions(batch, 1), table, batch)
    close(loss, data.tensor("out/loss"))

    loss.backward()
    ours = {**dict(encoder.named_parameters()), "table": table}
    names = {**case.names, case.table: "table"}
    compared = 0
    for theirs, norm in data.gradient_norms().items():
        prefix = next(each for each in names if theirs.startswith(each))
        name = names[prefix] + theirs.removeprefix(prefix)
        # The published tables give row 0, padding, no gradient, though padding is read.
        gradient = table.grad[1:] if name == "table" else ours[name].grad
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-7), theirs
        compared += 1
    assert compared >= len(ours) - len(data.facts.get("numerically_zero_gradients", []))

    encoder.eval()
    history = data.tensor("in/eval_item_seq")
    with torch.no_grad():
        state = encoder(
            History(table[history], history, history > 0, user[: len(history)], "predict")
        )
    close(state[:, -1] @ table.T, data.tensor("out/scores"))
