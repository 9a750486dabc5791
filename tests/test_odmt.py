"""ODMT through run(): options and ablations, stored and trained encoders, evaluation."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recbole_morec.cli import _settings as read_flags
from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.id_aware import _start_from_features
from recbole_morec.models.adapter import build_adapter
from recbole_morec.objectives import chunks
from recbole_morec.objectives.online_distillation import Columns, OnlineDistillation
from recbole_morec.run import evaluate, run

PAGE = (Path(__file__).parent.parent / "docs" / "odmt.md").read_text(encoding="utf-8")
ONE_LINERS = re.findall(r"^\| .+ \| `(--model=.+)` \|$", PAGE, re.MULTILINE)
COMMANDS = re.findall(r"^python run_recbole_morec.py (.+)$", PAGE, re.MULTILINE)


@pytest.fixture
def quick(settings):
    return {**settings, "item_encoder": "image+text", "epochs": 1, "max_text_length": 8}


def adapter_of(quick, **overrides):
    config = MoRecConfig("ODMT", "colours", overrides={**quick, **overrides})
    config["device"] = torch.device("cpu")
    torch.manual_seed(0)
    adapter = build_adapter(config, MultimodalDataset(config))
    return adapter, next(TrainLoader(adapter.batches(), 24, seed=1).epoch(0))


def test_every_branch_and_the_ensemble_are_measured(quick):
    results = run("ODMT", "colours", overrides=quick)
    groups = set(results["test"])
    for branch in ("id", "text", "image"):
        assert {f"{branch}: all", f"{branch}: cold", f"{branch}: new_item"} <= groups
    folder = next(Path(quick["checkpoint_dir"]).glob("colours/ODMT-*"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    (epoch,) = (line for line in lines if line["kind"] == "train")
    parts = [epoch[f"{name}_loss"] for name in ("id", "text", "image")]
    assert epoch["loss"] == pytest.approx(sum(parts) + epoch["distillation"], rel=1e-5)
    assert evaluate(folder)["test"] == results["test"]


def test_stored_states_are_no_part_of_a_checkpoint(quick):
    adapter, _ = adapter_of(quick)
    assert not any("encoders" in name for name in adapter.model.state_dict())
    assert list(adapter.model.item_encoder.encoder_parameters()) == []


@pytest.mark.parametrize(("layer", "block"), [(1, 1), (-1, 2), ({"text": 1}, 1)])
def test_states_of_any_layer(quick, layer, block):
    stored, batch = adapter_of(quick, states_layer=layer, states_dtype="fp32")
    live, same = adapter_of(quick, train_layers="last_1")  # the same weights, still there
    text, content = live.model.eval().item_encoder.encoders["text"], same["content"]
    with torch.no_grad():
        layers = text.backbone(
            input_ids=content["text_ids"],
            attention_mask=content["text_mask"].long(),
            output_hidden_states=True,
        ).hidden_states
    real = content["text_mask"]
    assert torch.equal(batch["content"]["text_states_mask"], real)
    torch.testing.assert_close(batch["content"]["text_states"][real], layers[block][real])
    sum(stored.loss(batch).values()).backward()


def test_layers_that_do_not_exist_are_refused(quick):
    with pytest.raises(ConfigError, match="use 1 to 2"):
        adapter_of(quick, states_layer={"text": 3})
    with pytest.raises(ConfigError, match="train_layers=none"):
        adapter_of(quick, states_layer=1, train_layers="last_1")


def test_trained_encoders_learn(quick):
    adapter, batch = adapter_of(quick, train_layers="last_1")
    sum(adapter.loss(batch).values()).backward()
    trained = list(adapter.model.item_encoder.encoder_parameters())
    assert trained
    assert all(parameter.grad is not None for parameter in trained)
    assert {"image", "text_ids"} <= set(batch["content"])
    results = run("ODMT", "colours", overrides={**quick, "train_layers": "last_1"})
    folder = next(Path(quick["checkpoint_dir"]).glob("colours/ODMT-*"))
    assert evaluate(folder)["test"] == results["test"]


def test_trained_encoders_start_as_the_stored_ones(quick):
    stored, batch = adapter_of(quick, states_dtype="fp32", encoder_dropout=0.0)
    live, same = adapter_of(quick, train_layers="last_1", encoder_dropout=0.0)
    live.model.load_state_dict(stored.model.state_dict(), strict=False)
    for adapter in (stored, live):
        adapter.model.eval()
    with torch.no_grad():
        ours, theirs = stored.model.encode_batch(batch)[1], live.model.encode_batch(same)[1]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("user_encoder", ["SASRec", "GRU4Rec", "NextItNet"])
def test_the_papers_backbones(quick, user_encoder):
    adapter, batch = adapter_of(quick, user_encoder=user_encoder)
    parts = adapter.loss(batch)
    sum(parts.values()).backward()
    assert all(p.grad is not None for p in adapter.model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"distillation_alpha": 0}, ("id: all", "text: all", "image: all")),
        ({"item_transformer": False}, ("id: all", "text: all", "image: all")),
        ({"branches": ["image"]}, ()),
        ({"branches": ["text", "image"]}, ("text: all", "image: all")),
        ({"item_transformer_mask": "full", "item_transformer_heads": 4}, ("id: all",)),
        ({"fusion_weights": "learned", "distillation_detach": True}, ("id: all",)),
        ({"distillation_divergence": "kl", "distillation_ramp": "step"}, ("id: all",)),
    ],
)
def test_ablations_and_options_run(quick, options, groups):
    results = run("ODMT", "colours", overrides={**quick, **options})
    assert set(groups) <= set(results["test"])
    if options.get("branches") == ["image"]:
        assert not [group for group in results["test"] if ": " in group]
        assert results["test"]["all"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train_layers": "all", "states_layer": 1}, "must stand still"),
        ({"train_layers": "all", "id_init": "text"}, "needs stored states"),
        ({"id_init": "mean", "tie_cls_feature": True}, "is no first token"),
        ({"train_layers": "last_1", "store_states": True}, "store_states=True: ODMT"),
        ({"pad_vector": "encoded"}, "pad_vector=encoded"),
        ({"user_encoder": "BERT4Rec", "mask_vector": "encoded"}, "mask_vector=encoded"),
        ({"encode": "every_slot"}, "distinct items only"),
        ({"branches": ["text"], "fusion_weights": "learned"}, "nothing to share"),
        ({"branches": []}, "branches"),
        ({"branches": ["id", "id"]}, "stands twice"),
    ],
)
def test_what_does_not_go_together_is_told_before_data_is_read(quick, options, told):
    with pytest.raises(ConfigError, match=told):
        MoRecConfig("ODMT", "colours", overrides={**quick, **options})


def test_fields_apart_have_no_states_of_a_layer(quick):
    with pytest.raises(ConfigError, match="text_fields_as=averaged"):
        adapter_of(quick, text_fields_as="averaged", states_layer={"text": 1})


def test_both_encoders_may_be_named_as_standing_still(quick):
    adapter, _ = adapter_of(quick, train_layers={"text": "none", "image": "none"})
    assert not list(adapter.model.item_encoder.encoder_parameters())


@pytest.mark.parametrize(
    "options",
    [{}, {"fusion_weights": "learned"}, {"distillation_alpha": 0}, {"branches": ["text", "image"]}],
)
def test_logits_of_a_few_rows_at_a_time_have_loss_and_gradient_of_all(quick, monkeypatch, options):
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    found, calls = [], []
    plain = Columns.cross_entropy

    def counted(columns, logits):
        calls.append(len(logits))
        return plain(columns, logits)

    monkeypatch.setattr(Columns, "cross_entropy", counted)
    for cells in (1 << 25, 2000):
        monkeypatch.setattr(chunks, "CELLS_AT_ONCE", cells)
        adapter, batch = adapter_of(quick, **{**still, "distillation_alpha": 0.5, **options})
        adapter.model.double().train()
        calls.clear()
        parts = adapter.loss(batch)
        sum(parts.values()).backward()
        gradients = {n: p.grad for n, p in adapter.model.named_parameters() if p.grad is not None}
        found.append(({name: part.item() for name, part in parts.items()}, gradients, max(calls)))
    (whole, gradients, most), (cut, others, few) = found
    assert few < most / 4
    assert cut == pytest.approx(whole, rel=1e-9)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, msg=name)


def teaching(**options):
    """Gradients of two branches' logits under teaching alone, and its value."""
    torch.manual_seed(0)
    logits = {name: torch.randn(4, 6).double().requires_grad_() for name in ("id", "text", "image")}
    columns = Columns(
        label=torch.tensor([0, 1, 2, 3]), log_count=torch.zeros(6, dtype=torch.float64)
    )
    distillation = OnlineDistillation(0.5, 1, **options)
    terms = distillation.terms(logits, sum(logits.values()) / 3, columns)
    return logits, terms


def test_a_detached_teacher_learns_nothing_from_its_students():
    for detach in (False, True):
        logits, terms = teaching(detach=detach)
        terms["text_from_id"].sum().backward()
        assert (logits["id"].grad is None) is detach
        assert logits["text"].grad.abs().max() > 0


def test_kl_is_the_cross_entropy_without_the_teachers_entropy():
    found = {}
    for divergence in ("cross_entropy", "kl"):
        logits, terms = teaching(detach=True, divergence=divergence)
        sum(term.sum() for term in terms.values()).backward()
        found[divergence] = terms, logits["text"].grad
    torch.testing.assert_close(found["kl"][1], found["cross_entropy"][1])
    share = (teaching()[0]["id"].detach() / 0.5).softmax(1)
    entropy = -0.25 * (share * share.log()).sum(1)
    gap = found["cross_entropy"][0]["text_from_id"] - found["kl"][0]["text_from_id"]
    torch.testing.assert_close(gap.detach(), entropy)
    assert (found["kl"][0]["text_from_id"] >= 0).all()


def test_learned_shares_weigh_the_branches_in_scores_and_learn_from_their_own_loss(quick):
    adapter, batch = adapter_of(quick, fusion_weights="learned")
    model = adapter.model
    with torch.no_grad():
        model.share.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    users, items = torch.randn(2, 3, 16), torch.randn(4, 3, 16)
    scores = model.score(users, items)
    expected = sum(
        weight * scores[name] for weight, name in zip((0.5, 0.3, 0.2), model.branches, strict=True)
    )
    torch.testing.assert_close(scores["ensemble"], expected)
    parts = adapter.loss(batch)
    assert "ensemble_loss" in parts
    parts["ensemble_loss"].backward()
    assert model.share.grad.abs().max() > 0


@pytest.mark.parametrize(("start", "width"), [("text", 128), ("image", 64)])
def test_where_ids_start(quick, start, width):
    adapter, batch = adapter_of(quick, id_init=start, id_embedding_size=width)
    ids = adapter.model.item_encoder.embedding.weight[batch["content"]["items"]]
    torch.testing.assert_close(ids, batch["content"][f"{start}_states"][:, 0].float())


def test_ids_may_start_between_words_and_picture():
    class Store:
        width = 2

        def __init__(self, value):
            self.value = value

        def fetch(self, items):
            first = torch.from_numpy(items)[:, None] * torch.tensor([1.0, self.value])
            return torch.stack([first, first + 100], 1), None

    encoder = SimpleNamespace(embedding=torch.nn.Embedding(4, 2, padding_idx=0))
    _start_from_features(encoder, "mean", {"text": Store(2.0), "image": Store(4.0)}, 4)
    assert encoder.embedding.weight.tolist() == [[0, 0], [1, 3], [2, 6], [3, 9]]


def test_ids_may_start_from_features_and_be_tied(quick):
    tied = {"id_init": "image", "id_embedding_size": 64, "tie_cls_feature": True}
    with pytest.raises(ConfigError, match="id_embedding_size="):
        adapter_of(quick, id_init="image")
    width = adapter_of(quick)[0].content.fetch(torch.tensor([1]).numpy())["image_states"].shape[-1]
    adapter, batch = adapter_of(quick, **{**tied, "id_embedding_size": width})
    encoder = adapter.model.item_encoder
    items = batch["content"]["items"]
    first = batch["content"]["image_states"][:, 0].float()
    torch.testing.assert_close(encoder.embedding.weight[items], first)
    ids = encoder.embedding(items)
    with torch.no_grad():
        encoder.embedding.weight += 1.0
    states, _ = encoder._states(batch["content"], encoder.embedding(items))
    torch.testing.assert_close(states["image"][:, 0], ids + 1.0)


@pytest.mark.parametrize("names", ["image", "id", ["tiny_vit", "tiny_convnext"]])
def test_one_text_and_one_image_encoder_are_needed(quick, names):
    with pytest.raises(ConfigError, match=r"ODMT reads (one text|text and images)|both read image"):
        run("ODMT", "colours", overrides={**quick, "item_encoder": names})


def test_what_teaching_weighs(quick):
    adapter, _ = adapter_of(quick, distillation_alpha=20)
    weigh = adapter.model.distillation.weight
    assert [round(weigh(epoch), 3) for epoch in (1, 10, 20, 30)] == [0.011, 0.287, 1.0, 1.0]
    stepwise, _ = adapter_of(quick, distillation_ramp="step")
    half = {"epoch": 0, "step": 4, "steps": 10}
    assert stepwise.model._epoch(half) == 0.5
    assert adapter.model._epoch(half) == 1


@pytest.mark.parametrize("command", [*ONE_LINERS, COMMANDS[0]])
def test_commands_of_the_page_run(settings, command):
    given = read_flags(shlex.split(command))
    overrides = {**settings, "epochs": 1, "max_text_length": 8}
    del overrides["item_encoder"]
    overrides |= {key: value for key, value in given.items() if key not in ("model", "dataset")}
    results = run(given["model"], "colours", overrides=overrides)
    assert results["training"]["epochs"] == 1
    assert 0 <= results["test"]["all"]["recall@5"] <= 1


def test_the_page_names_every_ablation_and_baseline():
    assert len(ONE_LINERS) == 10


def test_the_command_that_loads_a_checkpoint_names_a_recipe():
    (command,) = [each for each in COMMANDS if "--load" in each]
    given = read_flags(shlex.split(command))
    assert set(given) == {"config_files", "dataset", "load"}
    (file,) = given["config_files"]
    assert (Path(__file__).parent.parent / file).is_file()


@pytest.mark.parametrize(
    ("pooling", "averaged"),
    [("default", ("text", "image")), ("first", ()), ({"text": "cls"}, ("image",))],
)
def test_what_a_branch_apart_reads(quick, pooling, averaged):
    adapter, batch = adapter_of(quick, item_transformer=False, pooling=pooling)
    encoder, content = adapter.model.item_encoder.eval(), batch["content"]
    assert encoder.averaged == averaged
    states, masks = encoder._states(content, encoder.embedding(content["items"]))
    for b, branch in enumerate(("text", "image"), start=1):
        real = masks[branch][..., None]
        mean = (states[branch] * real).sum(1) / real.sum(1)
        read = mean if branch in averaged else states[branch][:, 0]
        expected = encoder.projection[branch](encoder.inputs[branch](read))
        torch.testing.assert_close(encoder(content)[:, b], expected)


def test_a_branch_apart_fetches_and_trains_what_it_reads_only(quick):
    adapter, batch = adapter_of(quick, item_transformer=False, branches=["image"])
    assert "text_states" not in batch["content"]
    assert not adapter.model.item_encoder.embedding.weight.requires_grad
    live, batch = adapter_of(
        quick, item_transformer=False, branches=["image"], train_layers="last_1"
    )
    sum(live.loss(batch).values()).backward()
    trained = [(name, p) for name, p in live.model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None] == []
