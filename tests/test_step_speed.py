"""Each trick that speeds up a step gives the numbers of its plain twin."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from item_encoder_world import build, make_dataset
from transformers.activations import QuickGELUActivation

from recbole_morec.data.content import ContentReader
from recbole_morec.data.content.state_making import stored_states
from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import image
from recbole_morec.item_encoders.attention import attention_of
from recbole_morec.item_encoders.build import build_item_encoder
from recbole_morec.item_encoders.prefix import Prefix
from recbole_morec.item_encoders.quick_gelu import QuickGelu
from recbole_morec.run import run
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
    monkeypatch.setattr("recbole_morec.data.content.state_making.BLOCK", 16)

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


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "eager"),  # 5 tokens
        ({"image_size": 512}, "sdpa"),  # 257
        ({"attention": "sdpa"}, "sdpa"),
        ({"device": torch.device("meta")}, "sdpa"),  # no CPU
        ({"device": None}, "sdpa"),
    ],
)
def test_short_items_have_plain_attention_on_a_cpu(tmp_path, changes, kind):
    settings = {"attention": "auto", "device": torch.device("cpu"), **changes}
    encoder = encoder_of(tmp_path, train_layers="all", **settings)
    assert attention_of(encoder.backbone) == kind


def test_short_images_have_plain_attention_in_timm(tmp_path):
    dataset = make_dataset(tmp_path)
    for size, fused in ((64, False), (224, True)):
        encoder = build(
            dataset, "vit_tiny_patch16_224", pretrained=False, image_size=size, attention="auto",
            device=torch.device("cpu"),
        )  # fmt: skip
        assert {m.fused_attn for m in encoder.modules() if hasattr(m, "fused_attn")} == {fused}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_quick_gelu_is_the_libraries(dtype):
    x = torch.linspace(-8, 8, 4001, dtype=dtype)
    found = []
    for layer in (QuickGelu(), QuickGELUActivation()):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        (y * torch.arange(len(x)).cos().to(dtype)).sum().backward()
        found.append((y, leaf.grad))
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=bound, atol=bound)


def test_clip_has_it(tmp_path):
    kinds = {type(module).__name__ for module in encoder_of(tmp_path).backbone.modules()}
    assert "QuickGelu" in kinds
    assert "QuickGELUActivation" not in kinds


def test_freed_memory_is_kept_for_training_on_a_cpu(world, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("recbole_morec.run.keep_freed_memory", lambda: asked.append(1))
    common = {
        "data_path": str(world.parent), "checkpoint_dir": str(tmp_path), "use_gpu": False,
        "item_encoder": "id", "epochs": 0, "show_progress": False, "log_tensorboard": False,
    }  # fmt: skip
    run("PixelNet", "colours", overrides=common)
    assert asked == [1]
    for change in ({"keep_memory": False}, {"fit_memory": "8GB"}):
        run("PixelNet", "colours", overrides={**common, **change})
    assert asked == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_kept_memory_is_used_again():
    code = (
        "import resource, torch; from recbole_morec.training.host_memory import keep_freed_memory\n"
        "import sys; done = keep_freed_memory() if sys.argv[1] == 'keep' else None\n"
        "for _ in range(5): torch.ones(1 << 24)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(40): torch.ones(1 << 24)\n"
        "print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done, faults = {}, {}
    for how in ("keep", "give back"):
        out = subprocess.run(
            [sys.executable, "-c", code, how], capture_output=True, text=True, check=True
        ).stdout.split()
        done[how], faults[how] = out[0], int(out[1])
    assert done["keep"] == "True"
    assert faults["keep"] < faults["give back"] / 2


def test_an_attention_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="attention"):
        encoder_of(tmp_path, attention="fast")
