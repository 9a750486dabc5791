"""Every encoder family that docs/encoders.md says runs is built and run, forward and backward."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from recbole_morec.item_encoders.build import build_item_encoder
from recbole_morec.item_encoders.families.table import markdown, read_json, versions
from recbole_morec.item_encoders.families.tiny_configs import VOCABULARY, tiny_config
from recbole_morec.item_encoders.families.trial import (
    padding_matters,
    rebuild,
    run_member,
    sample_content,
    write_tokenizer,
)

TABLE = Path(__file__).parent / "encoder_families.json"
PAGE = Path(__file__).parent.parent / "docs" / "encoders.md"
SLOW_SECONDS = 1.5
ALL = "RECBOLE_MOREC_ALL_FAMILIES"

RECORDED, MEMBERS = read_json(TABLE)
RUNNING = [m for m in MEMBERS if not m.problem]
same_versions = pytest.mark.skipif(
    versions() != RECORDED, reason=f"the table is about {RECORDED}; write it anew"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("families")
    write_tokenizer(path)
    return path


@pytest.fixture(autouse=True)
def quiet():
    import transformers

    transformers.logging.set_verbosity_error()


def is_installed(member):
    import timm
    from transformers import CONFIG_MAPPING

    if member.library == "timm":
        return timm.is_model(member.name)
    return member.family in CONFIG_MAPPING


@pytest.mark.parametrize("member", RUNNING, ids=lambda m: f"{m.library}-{m.family}-{m.reads}")
def test_family_runs(member, folder):
    if member.seconds > SLOW_SECONDS and not os.environ.get(ALL):
        pytest.skip(f"took {member.seconds} s; set {ALL}=1")
    if not is_installed(member):
        pytest.skip(f"not in this version of {member.library}")
    encoder = run_member(member, folder)
    assert encoder.architecture()["modality"] == member.reads
    if member.reads == "text":
        assert padding_matters(encoder) == bool(member.note)


@pytest.mark.parametrize("family", ["test_vit", "bert", "clip", "t5", "swin", "vit_mae", "qwen2"])
def test_families_rebuild_from_their_architecture(family, folder):
    member = next(m for m in RUNNING if family in (m.family, m.name))
    encoder = run_member(member, folder).eval()
    again = rebuild(encoder, folder).eval()
    content = sample_content(encoder)
    assert torch.equal(again(content), encoder(content))


@same_versions
def test_every_timm_module_and_model_type_is_in_the_table():
    import timm
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    listed = {(m.library, m.family) for m in MEMBERS}
    wanted = {("timm", name) for name in timm.list_modules()}
    wanted |= {("transformers", name) for name in MODEL_MAPPING_NAMES}
    assert wanted == listed


@same_versions
def test_every_timm_family_runs():
    assert [m.family for m in MEMBERS if m.library == "timm" and m.problem] == []


@same_versions
def test_the_page_is_the_table():
    assert PAGE.read_text(encoding="utf-8") == markdown(MEMBERS)


def test_tiny_configs_are_tiny():
    from transformers import BertConfig, CLIPConfig, LlamaConfig, SwinConfig

    assert tiny_config(BertConfig).vocab_size == VOCABULARY
    assert tiny_config(LlamaConfig).hidden_size == 32
    assert tiny_config(SwinConfig).depths == [1, 1]
    clip = tiny_config(CLIPConfig)
    assert (clip.text_config.num_hidden_layers, clip.vision_config.image_size) == (2, 32)


def test_one_encoder_of_each_kind_trains_together(folder):
    from types import SimpleNamespace

    dataset = SimpleNamespace(item_tokens=["[PAD]", "a", "b"], item_num=3, folder=folder)
    config = {"item_encoder": ["tiny_convnext", "tiny_bert", "id"], "fusion": "concat"}
    encoder = build_item_encoder(config, dataset)
    encoder(sample_content(encoder)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
