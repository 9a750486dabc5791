"""Each trick that speeds up a step gives the numbers of its plain twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_morec.data.content import ContentReader
from recbole_morec.data.content.state_store import stored_states
from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import image
from recbole_morec.item_encoders.build import build_item_encoder
from recbole_morec.item_encoders.prefix import Prefix
from recbole_morec.training.optim import build_optimizer


def groups_of(model):
    return [{"name": "all", "params": list(model.parameters()), "lr": 1e-2, "weight_decay": 0.1}]


@pytest.mark.parametrize("learner", ["adam", "adamw"])
def test_the_fused_optimiser_steps_like_the_plain_one(learner):
    torch.manual_seed(0)
    fused, plain = torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)
    plain.load_state_dict(fused.state_dict())
    one = build_optimizer(groups_of(fused), {"learner": learner, "learning_rate": 1e-2})
    assert one.defaults["fused"]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[learner]
    other = kind(groups_of(plain), foreach=False, fused=False)
    inputs = torch.randn(4, 7)
    for _ in range(20):
        for model, optimizer in ((fused, one), (plain, other)):
            optimizer.zero_grad()
            model(inputs).pow(2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(fused.weight, plain.weight, rtol=1e-5, atol=1e-7)


def test_other_learners_have_no_fused_form():
    model = torch.nn.Linear(2, 2)
    build_optimizer(groups_of(model), {"learner": "sgd", "learning_rate": 1e-2})


def test_states_of_equal_length_are_gathered_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_morec.data.content.state_store.BLOCK", 16)

    class Numbers:
        keys = ("number",)

        def fetch(self, items):
            return items.astype(np.float32)

        def identity(self, item):
            return str(item).encode()

    def encode(content):
        return content["number"][:, None, None] * 8 + torch.arange(12.0).view(1, 3, 4), None

    reader = ContentReader([Numbers()])
    store = stored_states(tmp_path / "s", 50, reader, encode, device=torch.device("cpu"),
                          dtype=torch.float32)  # fmt: skip
    for items in ([1, 2, 15, 16, 17, 49], [49, 1, 17, 2, 17, 16, 31, 32], [33]):
        states, mask = store.fetch(np.array(items))
        assert mask.all()
        assert torch.equal(states, encode({"number": torch.tensor(items).float()})[0])


def encoder_of(tmp_path, **settings):
    config = {"item_encoder": "tiny_clip_vit", "pretrained": False, "embedding_size": 8,
              "train_layers": "last_1", "image_size": 64, **settings}  # fmt: skip
    dataset = type("Dataset", (), {"folder": tmp_path, "item_num": 9})()
    torch.manual_seed(0)
    return build_item_encoder(config, dataset)


def test_states_made_in_chunks_are_those_of_all_at_once(tmp_path, monkeypatch):
    encoder = encoder_of(tmp_path).eval()
    prefix = Prefix(encoder)
    content = {"image": torch.randint(256, (7, 3, 64, 64), dtype=torch.uint8)}
    with torch.no_grad():
        whole = prefix.states(content)
        monkeypatch.setattr(image, "CHUNK_PIXELS", 2 * 64**2)
        assert len(encoder.parts(content)) == 4
        chunks = prefix.states(content)
    torch.testing.assert_close(chunks, whole, rtol=1e-5, atol=1e-6)


def test_attention_kinds_agree(tmp_path):
    content = {"image": torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)}
    found = {}
    for kind in ("auto", "sdpa", "eager"):
        encoder = encoder_of(tmp_path, attention=kind, train_layers="all")
        vectors = encoder(content)
        vectors.pow(2).sum().backward()
        name = "projection.layers.0.weight"
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        assert name in gradients
        found[kind] = (encoder.backbone.config._attn_implementation, vectors, gradients)
    assert (found["sdpa"][0], found["eager"][0]) == ("sdpa", "eager")
    for kind in ("auto", "eager"):
        torch.testing.assert_close(found[kind][1], found["sdpa"][1], rtol=1e-5, atol=1e-6)
        for name, gradient in found["sdpa"][2].items():
            torch.testing.assert_close(found[kind][2][name], gradient, rtol=1e-3, atol=1e-5)


def test_an_attention_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="attention"):
        encoder_of(tmp_path, attention="fast")
