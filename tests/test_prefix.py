"""Prefix and tail of a backbone together are the library's own forward, values and gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from recbole_morec.item_encoders.families.table import read_json
from recbole_morec.item_encoders.families.trial import (
    run_member,
    sample_content,
    write_tokenizer,
)
from recbole_morec.item_encoders.freezing import apply_train_layers, find_units, record_order
from recbole_morec.item_encoders.prefix import NoPrefix, Prefix

_, MEMBERS = read_json(Path(__file__).parent / "encoder_families.json")
# Two blocks or one block per stage each, of random weights.
FAMILIES = [
    ("timm", "vision_transformer", "image"),
    ("timm", "resnet", "image"),
    ("timm", "efficientnet", "image"),
    ("timm", "swin_transformer", "image"),
    ("timm", "beit", "image"),
    ("timm", "convnext", "image"),
    ("transformers", "vit", "image"),
    ("transformers", "vit_mae", "image"),
    ("transformers", "clip", "image"),
    ("transformers", "beit", "image"),
    ("transformers", "swin", "image"),
    ("transformers", "resnet", "image"),
    ("transformers", "bert", "text"),
    ("transformers", "roberta", "text"),
    ("transformers", "opt", "text"),
    ("transformers", "clip", "text"),
    ("transformers", "modernbert", "text"),
    ("transformers", "qwen2", "text"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("families")
    write_tokenizer(path)
    return path


def member_of(library, family, reads):
    return next(m for m in MEMBERS if (m.library, m.family, m.reads) == (library, family, reads))


def with_last_block(family, folder):
    """An encoder of the family whose last block (or stage) alone trains, in float64."""
    transformers.logging.set_verbosity_error()
    encoder = run_member(member_of(*family), folder)
    backbone = encoder.backbone.requires_grad_(True)
    with torch.no_grad(), record_order(backbone) as order:
        encoder.eval().pooled(encoder.probe_content())
    apply_train_layers(backbone, "last_1", order, encoder.name)
    return encoder.double().train()


def content_of(encoder):
    content = encoder.sample_content()
    if "image" in content:  # normalised, so that it is float64 too
        return {"image": encoder.pixels(content)}
    return content


@pytest.mark.parametrize("family", FAMILIES, ids="-".join)
def test_tail_of_prefix_is_the_forward(family, folder):
    encoder = with_last_block(family, folder)
    content = content_of(encoder)
    prefix = Prefix(encoder)
    assert prefix.unit == len(find_units(encoder.backbone).names) - 1
    with torch.no_grad():
        states = prefix.states(content)
    rest = {key: value for key, value in content.items() if key != "image"}
    found = []
    for given in (content, {encoder.states_key: states, **rest}):
        encoder.prefix = prefix
        encoder.zero_grad()
        torch.manual_seed(0)  # the tail's dropout
        vectors = encoder(given)
        vectors.square().sum().backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.requires_grad}
        found.append((vectors, gradients))
    (whole, expected), (tail, gradients) = found
    assert any(name.startswith("backbone") for name in expected)
    torch.testing.assert_close(tail, whole, rtol=1e-6, atol=1e-9)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-9, msg=name)


# What makes two blocks of every stage, where a family's tiny member has one.
TWO_PER_STAGE = [
    (("timm", "resnet", "image"), {"layers": [2, 2, 2, 2]}),
    (("timm", "swin_transformer", "image"), {"depths": [2, 2, 2, 2]}),
    (("transformers", "swin", "image"), {"depths": [2, 2], "num_heads": [2, 2]}),
    (("transformers", "resnet", "image"), {"depths": [2, 2, 2, 2]}),
    (("timm", "efficientnet", "image"), {"depth_multiplier": 2.0}),
    (("transformers", "efficientnet", "image"), {"depth_coefficient": 2.0}),
    (("transformers", "vit", "image"), {"num_hidden_layers": 4}),
    (("transformers", "beit", "image"), {"num_hidden_layers": 4}),
    (("transformers", "bert", "text"), {"num_hidden_layers": 4}),
    (("transformers", "roberta", "text"), {"num_hidden_layers": 4}),
    (("transformers", "opt", "text"), {"num_hidden_layers": 4}),
]


@pytest.mark.parametrize(
    ("family", "changes"), TWO_PER_STAGE, ids=["-".join(family) for family, _ in TWO_PER_STAGE]
)
def test_every_cut_of_two_blocks_per_stage(family, changes, folder):
    transformers.logging.set_verbosity_error()
    member = member_of(*family)
    encoder = run_member(replace(member, changes={**member.changes, **changes}), folder).double()
    encoder.backbone.requires_grad_(True)
    encoder.eval()
    content = content_of(encoder)
    rest = {key: value for key, value in content.items() if key != "image"}
    count = len(find_units(encoder.backbone).names)
    assert count >= 2
    encoder.zero_grad()
    whole = encoder(content)
    whole.square().sum().backward()
    expected = {n: p.grad for n, p in encoder.backbone.named_parameters() if p.grad is not None}
    for unit in range(1, count):
        prefix = encoder.prefix = Prefix(encoder, unit)
        with torch.no_grad():
            states = prefix.states(content)
        encoder.zero_grad()
        tail = encoder({encoder.states_key: states, **rest})
        torch.testing.assert_close(tail, whole, rtol=1e-6, atol=1e-9)
        tail.square().sum().backward()
        trained = {n for n in expected if n not in prefix.names}
        assert trained
        for name, parameter in encoder.backbone.named_parameters():
            if name in trained:
                torch.testing.assert_close(
                    parameter.grad, expected[name], rtol=1e-5, atol=1e-9, msg=f"{unit}: {name}"
                )


@pytest.mark.parametrize(
    "family", [FAMILIES[0], FAMILIES[1], FAMILIES[12]], ids=lambda family: family[1]
)
def test_the_tail_does_not_run_what_comes_before(family, folder):
    encoder = with_last_block(family, folder)
    prefix = encoder.prefix = Prefix(encoder)
    content = content_of(encoder)
    states = prefix.states(content)
    ran = []
    for name in prefix.units[:-1]:
        for module in encoder.backbone.get_submodule(name).modules():
            if not list(module.children()):
                module.register_forward_hook(lambda *call: ran.append(call))
    rest = {key: value for key, value in content.items() if key != "image"}
    encoder({encoder.states_key: states, **rest})
    assert ran == []
    encoder(content)
    assert ran != []


def test_padding_of_texts_does_not_matter(folder):
    encoder = with_last_block(("transformers", "bert", "text"), folder).eval()
    prefix = encoder.prefix = Prefix(encoder)
    content = content_of(encoder)
    states = prefix.states(content) * content["text_mask"][..., None]  # as the store gives them
    torch.testing.assert_close(encoder({"text_states": states, **content}), encoder(content))


def test_nothing_is_cut_where_the_first_block_trains(folder):
    encoder = run_member(member_of("transformers", "vit", "image"), folder)
    encoder.backbone.requires_grad_(True)
    with pytest.raises(NoPrefix, match="first block trains"):
        Prefix(encoder)


def test_dropout_in_the_frozen_part_is_refused(folder):
    encoder = with_last_block(("transformers", "bert", "text"), folder)
    prefix = Prefix(encoder)
    prefix.check()
    frozen = encoder.backbone.get_submodule(prefix.module)
    frozen.register_forward_pre_hook(  # what a library draws without a module of its own
        lambda module, args: (torch.nn.functional.dropout(args[0], 0.1, encoder.training),)
    )
    with pytest.raises(NoPrefix, match="dropout"):
        prefix.check()


def test_a_tail_that_reads_more_than_the_states_is_refused(folder):
    encoder = with_last_block(("timm", "vision_transformer", "image"), folder)
    backbone, seen = encoder.backbone, {}
    backbone.patch_embed.register_forward_hook(lambda m, a, out: seen.update(patches=out + 1))
    slope = torch.arange(backbone.num_features)  # a constant would be lost in the norm
    backbone.blocks[-1].register_forward_hook(
        lambda m, a, out: out + seen["patches"].mean() * slope
    )
    with pytest.raises(NoPrefix):
        Prefix(encoder).check()


def test_layers_are_counted_as_the_library_counts_them(folder):
    encoder = run_member(member_of("transformers", "bert", "text"), folder).eval()
    content = sample_content(encoder)
    with torch.no_grad():
        layers = encoder.backbone(
            input_ids=content["text_ids"],
            attention_mask=content["text_mask"].long(),
            output_hidden_states=True,
        ).hidden_states
        for number in range(1, len(layers)):
            states = Prefix(encoder, number).states(content)
            torch.testing.assert_close(states, layers[number])


def test_trying_leaves_statistics_as_they_are(folder):
    encoder = with_last_block(("timm", "resnet", "image"), folder)
    encoder.train_batch_norm = True
    encoder.train()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    Prefix(encoder).check()
    assert encoder.training
    for name, buffer in encoder.named_buffers():
        assert torch.equal(buffer, before[name]), name
    encoder.backbone.layer1.train()  # frozen, but its statistics would follow the batches
    frozen = encoder.train
    encoder.train = lambda mode=True: (frozen(mode), encoder.backbone.layer1.train(mode))[0]
    with pytest.raises(NoPrefix, match="batch statistics"):
        Prefix(encoder).check()
