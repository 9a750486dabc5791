"""Packed patches are what each model's own image processor in transformers makes of an image."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from item_encoder_world import build, content_for, make_dataset
from transformers import CONFIG_MAPPING

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.families.tiny_configs import tiny_config, tiny_values
from recbole_morec.item_encoders.families.trial import Member, run_member, write_tokenizer
from recbole_morec.item_encoders.packed_patches import (
    LAYOUTS,
    cut,
    frames_of,
    merge_of,
    round_size,
)

SIZE = 96  # pixels; blocks of 2, 3 and 4 patches of 8 pixels
OWN_PROCESSORS = {
    "cohere_compass_vision": "CohereCompassImageProcessor",
    "cosmos3_edge_vision": "Cosmos3EdgeImageProcessor",
    "ernie4_5_vl_moe_vision": "Ernie4_5_VLMoeImageProcessor",
    "gemma4_vision": "Gemma4ImageProcessor",
    "glm4v_moe_vision": "Glm4vImageProcessor",
    "glm4v_vision": "Glm4vImageProcessor",
    "glm5_next_vision": "Glm5NextImageProcessor",
    "glm_image_vision": "GlmImageImageProcessor",
    "glm_ocr_vision": "Glm46VImageProcessor",
    "hunyuan_vl_vision": "HunYuanVLImageProcessor",
    "hy_v4_vl_vision": "HYV4VLImageProcessor",
    "inkling2_vision": "Inkling2ImageProcessor",
    "inkling_vision": "InklingImageProcessor",
    "kimi_k25_vision": "Kimi_K25ImageProcessor",
    "minicpm_ocr_vision": "MiniCPMOcrImageProcessor",
    "minicpmv4_6_vision": "MiniCPMV4_6ImageProcessor",
    "minicpmv4_7_vision": "MiniCPMV4_6ImageProcessor",
    "minimax_m3_vl_vision": "MiniMaxM3VLImageProcessor",
    "mllama_vision_model": "MllamaImageProcessor",
    "muse_glimmer_vision": "MuseGlimmerImageProcessor",
    "muse_spark_vision": "MuseGlimmerImageProcessor",
    "paddleocr_vl_vision": "PaddleOCRVLImageProcessor",
    "siglip2_vision_model": "Siglip2ImageProcessor",
    "video_llama_3_vision": "VideoLlama3ImageProcessor",
}
# a processor's names for the inputs of its model
NAMES = {
    "image_grid_thw": "grid_thw",
    "image_merge_sizes": "merge_sizes",
    "image_position_ids": "pixel_position_ids",
}


def own_inputs(tower, config, images):
    """What the image processor of ``tower`` makes of ``images`` without changing their pixels."""
    if tower == "molmo2_vision":  # its processor cuts crops of a fixed size from larger images
        from transformers.models.molmo2.image_processing_molmo2 import batch_pixels_to_patches

        whole = torch.stack(images).permute(0, 2, 3, 1)
        return {"pixel_values": batch_pixels_to_patches(whole, config.patch_size)}
    processor = getattr(transformers, OWN_PROCESSORS.get(tower, "Qwen2VLImageProcessor"))
    patch, merge = config.patch_size, merge_of(config)
    side = {"height": patch * merge, "width": patch * merge}
    options = {"do_rescale": False, "do_normalize": False, "do_resize": False}
    known = {
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": frames_of(config),
        "pooling_kernel_size": merge,
        "rescale_image_frac": None,
    }
    options |= {k: v for k, v in known.items() if k in processor.valid_kwargs.__annotations__}
    if tower.startswith("minicpm"):  # its grid is counted while it resizes, here to the same size
        options |= {"do_resize": True, "scale_resolution": SIZE, "slice_mode": False}
    if tower.startswith("inkling"):
        options["size"] = side
    if tower == "inkling_vision":
        options["do_resize"] = True
    if tower == "mllama_vision_model":
        options |= {"do_resize": True, "size": {"height": SIZE, "width": SIZE}}
        images = [[image] for image in images]
    made = processor()(images, return_tensors="pt", input_data_format="channels_first", **options)
    return {NAMES.get(name, name): value for name, value in made.items()}


@pytest.mark.parametrize("tower", sorted(LAYOUTS.keys() - {"florence_vision"}))
def test_inputs_are_those_of_the_image_processor(tower):
    if tower not in CONFIG_MAPPING:
        pytest.skip("not in this version of transformers")
    config = tiny_config(CONFIG_MAPPING[tower])
    pixels = torch.rand(2, 3, SIZE, SIZE)
    ours = LAYOUTS[tower].make(pixels, config)
    theirs = own_inputs(tower, config, list(pixels))
    if tower == "inkling2_vision":
        theirs["image_grid_thw"] = theirs.pop("grid_thw")
    if tower == "inkling_vision":  # without the empty patch at the end of each row
        grid = theirs["pixel_values"].unflatten(0, (2, SIZE // 8, SIZE // 8 + 1))
        theirs["pixel_values"] = grid[:, :, :-1]
    length = ours["pixel_values"].shape[1]
    for name, value in ours.items():
        own = theirs[name]
        if tower in ("siglip2_vision_model", "gemma4_vision") and name != "spatial_shapes":
            own = own[:, :length]  # padded up to the longest of any images
        assert torch.equal(value, own.to(value.dtype).reshape(value.shape)), name


def test_florence_reads_whole_images():
    pixels = torch.rand(2, 3, 32, 32)
    assert LAYOUTS["florence_vision"].make(pixels, None) == {"pixel_values": pixels}


def test_cut_keeps_blocks_together_and_repeats_in_time():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert cut(image, patch=1, merge=2, order="ctyx")[0, :5, 0].tolist() == [0, 1, 4, 5, 2]
    assert cut(image, patch=1, merge=1, order="ctyx")[0, :5, 0].tolist() == [0, 1, 2, 3, 4]
    assert cut(image, patch=2, merge=1, order="ctyx")[0, 0].tolist() == [0, 1, 4, 5]
    twice = cut(torch.arange(2.0).reshape(1, 2, 1, 1), 1, 1, order="tcyx", frames=2)
    assert twice.flatten().tolist() == [0, 1, 0, 1]
    twice = cut(torch.arange(2.0).reshape(1, 2, 1, 1), 1, 1, order="ctyx", frames=2)
    assert twice.flatten().tolist() == [0, 0, 1, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed")
    write_tokenizer(path)
    return path


def tower_of(family, folder, size=32):
    return run_member(Member("transformers", family, "image", size=size), folder).eval()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v", "hunyuan_vl_vision", "siglip2"])
def test_an_item_is_what_the_tower_makes_of_it_alone(family, folder):
    encoder = tower_of(family, folder).requires_grad_(False)
    images = torch.rand(3, 3, 32, 32)
    tokens, _ = encoder.tokens({"image": images})
    vectors = encoder.pooled({"image": images})
    for image, own, vector in zip(images, tokens, vectors, strict=True):
        inputs = own_inputs(encoder.backbone.config.model_type, encoder.backbone.config, [image])
        if "pixel_attention_mask" in inputs:
            real = inputs["pixel_attention_mask"][0].bool()
            inputs |= {k: inputs[k][:, real] for k in ("pixel_values", "pixel_attention_mask")}
        if family in ("qwen2_5_vl", "glm4v"):
            inputs["hidden_states"] = inputs.pop("pixel_values")
        output = encoder.backbone(**inputs)
        assert torch.allclose(output.last_hidden_state.reshape(own.shape), own, atol=1e-5)
        merged = output.pooler_output.reshape(-1, vector.shape[-1])
        assert torch.allclose(merged.mean(dim=0), vector, atol=1e-5)


def test_a_size_that_leaves_half_a_block_is_refused(folder):
    with pytest.raises(ConfigError, match=r"multiple of 16 pixels, not 40; set\s+image_size: 32"):
        tower_of("qwen2_vl", folder, size=40)
    config = tiny_config(CONFIG_MAPPING["qwen2_vl_vision"])
    assert [round_size(size, config) for size in (1, 40, 41, 224)] == [16, 32, 48, 224]


def test_a_tower_without_a_size_of_its_own_gets_the_usual_one(folder):
    assert tower_of("gemma4_vision", folder, size=None).size == 216


def test_the_tower_of_a_saved_model_is_loaded_trained_and_rebuilt(tmp_path):
    values = tiny_values(transformers.Qwen2_5_VLConfig)
    saved = transformers.Qwen2_5_VLModel(transformers.Qwen2_5_VLConfig(**values))
    saved.save_pretrained(tmp_path / "qwen")
    area = {"shortest_edge": 3136, "longest_edge": 12845056}  # pixels in all, not of an edge
    made = {"size": area, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.3, 0.3]}
    (tmp_path / "qwen" / "preprocessor_config.json").write_text(json.dumps(made))
    dataset, name = make_dataset(tmp_path), str(tmp_path / "qwen")
    encoder = build(dataset, name, train_layers="last_1")
    assert encoder.size == 224
    assert encoder.own_mean == (0.4, 0.5, 0.6)
    for key, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, saved.visual.state_dict()[key]), key
    trained = [key for key, p in encoder.backbone.named_parameters() if p.requires_grad]
    assert {key.split(".")[0] for key in trained} == {"blocks", "merger"}
    encoder = build(dataset, name, image_size=32).eval()
    architecture = json.loads(json.dumps(encoder.architecture()))
    again = build(dataset, name, load_weights=False, item_encoder_architecture=architecture).eval()
    again.load_state_dict(encoder.state_dict())
    content = content_for(encoder)
    assert torch.equal(again(content), encoder(content))
