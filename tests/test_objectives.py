"""Objectives against plain twins written slot by slot, as published."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_morec.errors import ConfigError
from recbole_morec.objectives import OBJECTIVES, chunks, positions
from recbole_morec.objectives.bce import BCE
from recbole_morec.objectives.bpr import BPR
from recbole_morec.objectives.full_softmax import FullSoftmax
from recbole_morec.objectives.gbce import GBCE
from recbole_morec.objectives.in_batch import InBatch
from recbole_morec.objectives.item_head import ItemHead
from recbole_morec.objectives.sampled_softmax import SampledSoftmax

D = 5
ZERO = torch.tensor([0])  # padding


@pytest.fixture
def batch():
    """Three windows of up to four items; item 3 stands in two of them, item 1 twice in one."""
    item_seq = torch.tensor([[0, 1, 3, 1], [2, 3, 4, 5], [0, 0, 6, 2]])
    items = torch.arange(1, 7)
    share = torch.tensor([0.3, 0.1, 0.25, 0.05, 0.1, 0.2]).double()
    return {
        "item_seq": item_seq,
        "mask": item_seq > 0,
        "item_index": item_seq,
        "content": {"items": items},
        "slot_count": torch.bincount(item_seq.flatten(), minlength=7)[1:].double(),
        "log_popularity": share.log(),
        "target": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]]) > 0,
        "negative_index": torch.tensor(
            [[[0], [0], [4], [5]], [[0], [1], [1], [6]], [[0], [0], [0], [3]]]
        ),
        "global_rows": 3,
        "global_terms": 6,
    }


@pytest.fixture
def states():
    return torch.randn(3, 3, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def vectors():
    rows = torch.randn(7, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows[0] = 0
    return rows


def targets_of(batch):
    """Row, slot and item of every target."""
    for row, slot in batch["target"].nonzero().tolist():
        yield row, slot, batch["item_seq"][row, slot].item()


def published_in_batch(states, vectors, batch, mask_own=True, offset=1, temperature=1.0):
    """One column per slot, as the authors' loop builds it."""
    seq = batch["item_seq"]
    slots = seq.flatten().tolist()
    columns = vectors[seq.flatten()]
    log_p = torch.tensor([0.0, *batch["log_popularity"].tolist()], dtype=torch.float64)
    losses = []
    for b, t, _ in targets_of(batch):
        label = b * seq.shape[1] + t
        logits = columns @ states[b, t - offset] / temperature - log_p[seq.flatten()]
        for column, item in enumerate(slots):
            own = mask_own and item in seq[b].tolist() and column != label
            if item == 0 or own:
                logits[column] = -math.inf
        losses.append(F.cross_entropy(logits[None], torch.tensor([label])))
    return torch.stack(losses).mean()


def same(ours, theirs, *inputs):
    """Equal value, and equal gradients of every input."""
    value, gradients = torch.autograd.functional.vjp(ours, inputs)
    expected, others = torch.autograd.functional.vjp(theirs, inputs)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask_own", [True, False])
def test_in_batch_equals_one_column_per_slot(states, vectors, batch, mask_own):
    objective = InBatch(mask_own_history=mask_own)
    ours, theirs = [
        torch.autograd.functional.vjp(loss, (states, vectors))
        for loss in (
            lambda s, v: objective(s, positions(batch, 1), v, batch),
            lambda s, v: published_in_batch(s, v, batch, mask_own),
        )
    ]
    assert ours[0].item() == pytest.approx(theirs[0].item(), rel=1e-6)
    for gradient, expected in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(gradient[1:], expected[1:], rtol=1e-5, atol=1e-8)


def test_popularity_correction_is_an_exponent(states, vectors, batch):
    none = InBatch(popularity_correction=0.0)(states, positions(batch, 1), vectors, batch)
    flat = dict(batch, log_popularity=torch.zeros(6))
    assert none.item() == pytest.approx(InBatch()(states, positions(flat, 1), vectors, flat).item())
    assert none.item() != pytest.approx(
        InBatch()(states, positions(batch, 1), vectors, batch).item()
    )


def test_items_outside_all_slots_are_no_negatives(states, vectors, batch):
    extra = torch.cat([vectors, torch.full((1, D), 50.0, dtype=torch.float64)])
    wider = dict(batch)
    wider["content"] = {"items": torch.arange(1, 8)}
    wider["slot_count"] = torch.cat([batch["slot_count"], torch.zeros(1)])
    wider["log_popularity"] = torch.cat([batch["log_popularity"], torch.zeros(1)])
    with_extra = InBatch()(states, positions(wider, 1), extra, wider)
    assert with_extra.item() == pytest.approx(
        InBatch()(states, positions(batch, 1), vectors, batch).item()
    )


@pytest.mark.parametrize("kind", ["each", "masked", "last"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_in_batch_at_every_kind_of_target(batch, states, vectors, kind, temperature):
    # Item 1 stands twice in row 0: the slot that is predicted counts, its twin is barred.
    chosen = {
        "each": batch["item_seq"] > 0,
        "masked": torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]]) > 0,
        "last": torch.tensor([[0, 0, 0, 1]] * 3) > 0,
    }[kind]
    batch |= {"target": chosen, "global_terms": int(chosen.sum())}
    # The state stands at the target's own slot, but for `last` of a causal encoder.
    offset = 1 if kind == "last" else 0
    states = torch.cat([states, states[:, :1] + 1], dim=1)
    objective = InBatch(temperature=temperature)
    same(
        lambda s, v: objective(s, positions(batch, offset), v.index_fill(0, ZERO, 0), batch),
        lambda s, v: published_in_batch(
            s, v.index_fill(0, ZERO, 0), batch, offset=offset, temperature=temperature
        ),
        states,
        vectors,
    )


# --- pairs and cells ------------------------------------------------------------------------------


def pairs(states, vectors, batch):
    """Scores of every target and of its negatives, one by one."""
    for b, t, item in targets_of(batch):
        negatives = batch["negative_index"][b, t].tolist()
        yield states[b, t - 1] @ vectors[item], [states[b, t - 1] @ vectors[n] for n in negatives]


@pytest.fixture
def three_negatives(batch):
    """Three negatives per target."""
    drawn = torch.randint(1, 7, (3, 4, 3), generator=torch.Generator().manual_seed(3))
    return dict(batch, negative_index=drawn * batch["target"][..., None])


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-1])
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_bpr_by_hand(states, vectors, three_negatives, reduction, epsilon, place):
    terms = []
    for positive, negatives in pairs(states, vectors, three_negatives):
        margins = [(positive - negative).item() for negative in negatives]
        inside = [-math.log(math.exp(log_sigmoid(x)) + epsilon) for x in margins]
        outside = [-(epsilon + log_sigmoid(x)) for x in margins]
        terms.append(sum(inside if place == "inside" else outside) / 3)
    objective = BPR(3, epsilon, place, reduction)
    loss = objective(states, positions(three_negatives, 1), vectors, three_negatives)
    assert loss.item() == pytest.approx(sum(terms) / (3 if reduction == "sum" else 6), rel=1e-9)


def test_bpr_without_epsilon_is_finite_at_any_margin(batch, states, vectors):
    states = (states * 1e4).requires_grad_()
    loss = BPR(epsilon=0.0)(states, positions(batch, 1), vectors, batch)
    loss.backward()
    assert loss.item() > 1e3
    assert torch.isfinite(states.grad).all()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("average", ["sides", "cells"])
def test_bce_by_hand(states, vectors, three_negatives, reduction, average):
    terms = []
    for positive, negatives in pairs(states, vectors, three_negatives):
        right = -log_sigmoid(positive.item())
        wrong = [-log_sigmoid(-negative.item()) for negative in negatives]
        terms.append(right + sum(wrong) / 3 if average == "sides" else (right + sum(wrong)) / 4)
    objective = BCE(3, average, reduction)
    loss = objective(states, positions(three_negatives, 1), vectors, three_negatives)
    assert loss.item() == pytest.approx(sum(terms) / (3 if reduction == "sum" else 6), rel=1e-9)


def test_gbce_by_hand(states, vectors, three_negatives):
    alpha, t = 3 / 10, 0.75  # 3 of the 10 others among 11 items
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    terms = []
    for positive, negatives in pairs(states, vectors, three_negatives):
        probability = math.exp(log_sigmoid(positive.item())) ** beta
        wrong = [log_sigmoid(-negative.item()) for negative in negatives]
        terms.append(-(math.log(probability) + sum(wrong)) / 4)
    objective = GBCE(11, 3)
    loss = objective(states, positions(three_negatives, 1), vectors, three_negatives)
    assert loss.item() == pytest.approx(sum(terms) / 6, rel=1e-9)


def test_gbce_lies_between_bce_and_its_calibrated_form(states, vectors, three_negatives):
    batch = three_negatives
    plain, cells = GBCE(11, 3, calibration=0.0), BCE(3, "cells")
    losses = [each(states, positions(batch, 1), vectors, batch).item() for each in (plain, cells)]
    assert losses[0] == pytest.approx(losses[1])
    assert GBCE(11, 3, calibration=1.0).beta == pytest.approx(3 / 10)
    with pytest.raises(ConfigError, match="negatives=256"):
        GBCE(200)


# --- softmax --------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [0.0, 0.5])
def test_sampled_softmax_of_each_position(states, vectors, three_negatives, correction):
    batch = three_negatives
    log_p = torch.cat([torch.zeros(1), batch["log_popularity"]]).double()

    def plain(states, vectors):
        losses = []
        for b, t, item in targets_of(batch):
            listed = [item, *batch["negative_index"][b, t].tolist()]
            logits = vectors[listed] @ states[b, t - 1] / 0.5 - correction * log_p[listed]
            losses.append(-torch.log_softmax(logits, 0)[0])
        return sum(losses) / 6

    objective = SampledSoftmax(3, shared=False, correction=correction, temperature=0.5)
    same(lambda s, v: objective(s, positions(batch, 1), v, batch), plain, states, vectors)


@pytest.fixture
def shared(batch):
    """Five shared negatives, item 1 twice; rows bar their own items."""
    index = torch.tensor([5, 1, 6, 4, 1])
    barred = (batch["item_seq"][:, :, None] == index).any(1)
    share = batch["log_popularity"][index - 1]
    return dict(
        batch, shared_items=index, shared_index=index, shared_barred=barred, shared_log_share=share
    )


def sampled_by_hand(states, vectors, batch, correction, temperature=1.0):
    log_p = torch.cat([torch.zeros(1), batch["log_popularity"]]).double()
    losses = []
    for b, t, item in targets_of(batch):
        own, drawn = set(batch["item_seq"][b].tolist()), batch["shared_index"].tolist()
        hits = drawn.count(item)
        listed = [item] * (1 + hits) + [n for n in drawn if n not in own]
        logits = vectors[listed] @ states[b, t - 1] / temperature - correction * log_p[listed]
        losses.append(-torch.log_softmax(logits, 0)[: 1 + hits].logsumexp(0))
    return sum(losses) / 6


@pytest.mark.parametrize("correction", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_sampled_softmax_against_shared_negatives(states, vectors, shared, correction, temperature):
    objective = SampledSoftmax(5, correction=correction, temperature=temperature)
    same(
        lambda s, v: objective(s, positions(shared, 1), v, shared),
        lambda s, v: sampled_by_hand(s, v, shared, correction, temperature),
        states,
        vectors,
    )


def test_a_row_that_may_have_no_negative_has_no_loss(states, vectors, shared):
    shared["shared_barred"][0] = True
    states.requires_grad_()
    loss = SampledSoftmax(5)(states, positions(shared, 1), vectors, shared)
    loss.backward()
    assert loss.item() > 0
    assert (states.grad[0] == 0).all()
    assert (states.grad[1] != 0).any()


def test_corrected_samples_teach_what_the_full_softmax_teaches():
    # At the optimum of the full softmax the expected gradient is zero, though with four items and
    # 16 draws nearly every draw hits some target.
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([0.5, 0.3, 0.15, 0.05])  # what follows
    q = torch.tensor([0.4, 0.3, 0.2, 0.1])  # what is drawn
    scores = truth.log().requires_grad_()
    objective, count, batches = SampledSoftmax(16, correction=1.0), 512, 300
    for _ in range(batches):
        items = torch.multinomial(truth, count, True, generator=generator) + 1
        drawn = torch.multinomial(q, 16, True, generator=generator) + 1
        batch = {
            "target": torch.ones(count, 1, dtype=torch.bool), "item_index": items[:, None],
            "log_popularity": q.log(), "shared_log_share": q[drawn - 1].log(),
            "content": {"items": torch.arange(1, 5)}, "shared_items": drawn,
            "shared_index": drawn, "shared_barred": drawn == items[:, None],
            "global_rows": count, "global_terms": count,
        }  # fmt: skip
        vectors = torch.cat([torch.zeros(1, 1), scores[:, None]])
        objective(torch.ones(count, 1, 1), positions(batch, 0), vectors, batch).backward()
    torch.testing.assert_close(scores.grad / batches, torch.zeros(4), atol=5e-3, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_full_softmax_is_cross_entropy_over_all_items(states, vectors, batch, temperature):
    def plain(states, vectors):
        found = list(targets_of(batch))
        h = torch.stack([states[b, t - 1] for b, t, _ in found])
        label = torch.tensor([item - 1 for _, _, item in found])
        return F.cross_entropy(h @ vectors[1:].T / temperature, label)

    objective = FullSoftmax(temperature)
    same(lambda s, v: objective(s, positions(batch, 1), v, batch), plain, states, vectors)


def test_item_head_names_the_next_items_id(states, vectors, batch):
    head = ItemHead(30, D).double()
    shifted = dict(batch, content={"items": batch["content"]["items"] + 20})  # ids of 6 of 29 items
    found = list(targets_of(batch))
    h = torch.stack([states[b, t - 1] for b, t, _ in found])
    label = torch.tensor([item + 20 for _, _, item in found])
    expected = F.cross_entropy(head.head(h), label)
    loss = head(states, positions(shifted, 1), vectors, shifted)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()
    assert head.head.weight.grad.norm() > 0


# --- bounded memory -------------------------------------------------------------------------------

OBJECTIVES_IN_CHUNKS = {
    "bpr": lambda: BPR(3),
    "bce": lambda: BCE(3),
    "gbce": lambda: GBCE(11, 3),
    "in_batch": lambda: InBatch(),
    "sampled_softmax": lambda: SampledSoftmax(5, correction=1.0),
    "sampled_softmax of each": lambda: SampledSoftmax(3, shared=False, correction=1.0),
    "full_softmax": lambda: FullSoftmax(),
    "item_head": lambda: ItemHead(30, D).double(),
}


@pytest.mark.parametrize("name", OBJECTIVES_IN_CHUNKS)
def test_chunks_change_neither_loss_nor_gradients(
    states, vectors, shared, three_negatives, name, monkeypatch
):
    torch.manual_seed(0)
    objective = OBJECTIVES_IN_CHUNKS[name]()
    batch = {**three_negatives, **{k: v for k, v in shared.items() if k.startswith("shared")}}
    runs = []
    for cells in (chunks.CELLS_AT_ONCE, 13):  # all six positions at once, one or two at a time
        monkeypatch.setattr(chunks, "CELLS_AT_ONCE", cells)
        objective.zero_grad()
        inputs = [each.clone().requires_grad_() for each in (states, vectors)]
        loss = objective(inputs[0], positions(batch, 1), inputs[1], batch)
        loss.backward()
        read = inputs if name != "item_head" else inputs[:1]
        gradients = [each.grad.clone() for each in [*read, *objective.parameters()]]
        runs.append((loss.detach(), gradients))
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that is made within it, forward and backward."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        sizes = [each.untyped_storage().nbytes() // each.itemsize for each in tensors]
        self.numbers = max([self.numbers, *sizes])
        return made


@pytest.mark.parametrize("name", ["full_softmax", "item_head", "in_batch", "gbce"])
def test_no_tensor_is_larger_than_a_chunk(name):
    rows, items, dim, drawn = 64, 2000, 4, 500
    order = torch.arange(1, rows + 1)[:, None]
    batch = {
        "target": torch.ones(rows, 1, dtype=torch.bool),
        "item_seq": order, "item_index": order,
        "content": {"items": torch.arange(1, items + 1)},
        "slot_count": torch.ones(items), "log_popularity": torch.zeros(items),
        "global_rows": rows, "global_terms": rows,
    }  # fmt: skip
    objective = {
        "full_softmax": FullSoftmax,
        "item_head": lambda: ItemHead(1 + items, dim),
        "in_batch": lambda: InBatch(mask_own_history=False),
        "gbce": lambda: GBCE(items, drawn),
    }[name]()
    width = 1 + items  # numbers of a position
    if name == "gbce":
        width = drawn * dim
        batch["negative_index"] = torch.randint(1, items + 1, (rows, 1, drawn))
    states = torch.randn(rows, 1, dim, requires_grad=True)
    vectors = torch.randn(1 + items, dim, requires_grad=True)

    def largest(cells):
        with pytest.MonkeyPatch.context() as patch, Largest() as mode:
            patch.setattr(chunks, "CELLS_AT_ONCE", cells)
            objective(states, positions(batch, 0), vectors, batch).backward()
        return mode.numbers

    assert largest(rows * width) >= rows * (width - 1)  # one piece
    bound = rows * drawn if name == "gbce" else 8 * width  # a loss per negative is all that is left
    assert largest(8 * width) <= bound


def test_published_defaults():
    assert BPR().reduction == "sum"
    assert InBatch().reduction == BCE().reduction == FullSoftmax().reduction == "mean"
    assert (BPR().negatives, BCE().negatives, GBCE(1000).negatives) == (1, 1, 256)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_a_process_without_positions_adds_nothing(vectors, shared, three_negatives, name):
    from recbole_morec.config import MoRecConfig

    dataset = SimpleNamespace(item_num=7, candidates=np.arange(7) > 0)
    chosen = {"objective": name, "negatives": 3, "item_encoder": "id", "embedding_size": D}
    chosen["n_heads"] = 1
    config = MoRecConfig("PixelNet", "any", overrides=chosen)
    objective = OBJECTIVES.get(name).from_config(config, dataset).double()
    batch = {**three_negatives, **{k: v for k, v in shared.items() if k.startswith("shared")}}
    row_keys = ("item_seq", "mask", "item_index", "target", "negative_index", "shared_barred")
    batch |= {key: batch[key][:0] for key in row_keys}
    vectors.requires_grad_()
    loss = objective(torch.zeros(0, 3, D).double(), positions(batch, 1), vectors, batch)
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is None or (vectors.grad == 0).all()
