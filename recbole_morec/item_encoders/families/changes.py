"""What shrinking by field names does not find: changes to tiny configs by model type."""

from __future__ import annotations

from typing import Any

_SWIN = {"window_size": 4, "depths": [1, 1], "num_heads": [1, 2], "embed_dim": 8, "patch_size": 4}


def _multimodal_rope(*sections: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    return {"rope_parameters": rope}


CHANGES: dict[str, dict[str, Any]] = {
    # image
    "bit": {"embedding_size": 8, "num_groups": 4, "hidden_sizes": [8, 8, 16, 16]},
    "donut-swin": _SWIN,
    "dots3_note_vision_encoder": {"pyramid_num_routed": [-1, 4]},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "align_vision_model": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "hiera": {"embed_dim": 8, "patch_size": [7, 7], "image_size": [32, 32]},
    "levit": {"patch_size": 16, "num_attention_heads": [2, 2, 2], "hidden_sizes": [16, 32, 32]},
    "maskformer-swin": _SWIN,
    "mllama_vision_model": {"intermediate_layers_indices": [0], "num_global_layers": 1},
    "swin": _SWIN,
    "swin2sr": {**_SWIN, "patch_size": 1, "upscale": 2},
    "swinv2": {**_SWIN, "pretrained_window_sizes": [0, 0]},
    # text
    "codegen": {"n_head": 4, "n_embd": 64, "rotary_dim": 8},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4v_moe_text": _multimodal_rope(1, 1, 2),
    "glm4v_text": _multimodal_rope(2, 3, 3),
    "glm_image_text": _multimodal_rope(2, 3, 3),
    "glm_ocr_text": _multimodal_rope(2, 3, 3),
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "layoutlmv3": {
        "coordinate_size": 4,
        "shape_size": 8,
        "visual_embed": False,
        "max_2d_position_embeddings": 32,
    },
    "lilt": {"hidden_size": 48, "intermediate_size": 64},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "nemotron": {"num_key_value_heads": 2},
    "paddleocr_vl_text": _multimodal_rope(2, 3, 3),
    "qwen2_5_omni_text": _multimodal_rope(2, 3, 3),
    "qwen2_5_vl_text": _multimodal_rope(2, 3, 3),
    "qwen2_vl_text": _multimodal_rope(2, 3, 3),
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 16,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba2": {"num_hidden_layers": 54},
}
