"""What shrinking by field names does not find: changes to tiny configs by model type."""

from __future__ import annotations

from typing import Any

_SWIN = {"window_size": 4, "depths": [1, 1], "num_heads": [1, 2], "embed_dim": 8, "patch_size": 4}


def _multimodal_rope(*sections: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    return {"rope_parameters": rope}


_SWIN_BACKBONE = {"backbone_config": {"depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]}}
_DETR_CHANNELS = {"encoder_in_channels": [16, 32, 64], "decoder_in_channels": [32, 32, 32]}
# kernel, channels in and out, stride, squeeze and excitation; the default narrows lines of text
_PP_BACKBONE = {
    "out_features": [f"stage{i}" for i in range(1, 5)],
    "stem_channels": [3, 8, 16],
    "block_configs": [
        [[3, 16, 16, 1, True]],
        [[3, 16, 16, 2, False]],
        [[3, 16, 24, 2, False]],
        [[3, 24, 32, 2, False]],
    ],
}


def _pp_intraclass() -> dict[str, Any]:
    """Kernel, stride and padding of each convolution of PP-OCR's intraclass block."""
    config: dict[str, Any] = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
    for name, size in (("long", 7), ("mid", 5), ("short", 3)):
        half = size // 2
        tall, wide = "vertical_long_to_small_conv", "horizontal_small_to_long_conv"
        config[f"{tall}_{name}ratio"] = [[size, 1], [1, 1], [half, 0]]
        config[f"{wide}_{name}ratio"] = [[1, size], [1, 1], [0, half]]
        config[f"symmetric_conv_long_{name}ratio"] = [[size, size], [1, 1], [half, half]]
    return config


_SEAMLESS = {
    "speech_encoder_intermediate_size": 32,
    "t2u_encoder_ffn_dim": 32,
    "t2u_decoder_ffn_dim": 32,
    "t2u_vocab_size": 128,
    "unit_hifi_gan_vocab_size": 128,
    "upsample_initial_channel": 32,
    "unit_embed_dim": 32,
}

CHANGES: dict[str, dict[str, Any]] = {
    # image
    "align_vision_model": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "apertus1p5": {
        "vision_config": {"codebook_size": 32},
        "audio_config": {"codebook_size": 32},
        "image_token_offset": 32,
        "audio_token_offset": 64,
    },
    "apertus1p5_vision_tokenizer": {"base_channels": 32, "channel_multiplier": [1, 1]},
    "bit": {"embedding_size": 8, "num_groups": 4, "hidden_sizes": [8, 8, 16, 16]},
    "bridgetower": {"hidden_size": 64},
    "bridgetower_text_model": {"hidden_size": 64},
    "bridgetower_vision_model": {"hidden_size": 64},  # one head per 64
    "d_fine": _DETR_CHANNELS,
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [16, 32]},
    "deimv2": _DETR_CHANNELS,
    "depth_pro": {
        "patch_size": 32,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [8, 8],
        "scaled_images_feature_dims": [8, 8, 8],
    },
    "donut-swin": _SWIN,
    "dots3_note_vision_encoder": {"pyramid_num_routed": [-1, 4]},
    "edgetam_vision_model": {
        "backbone_config": {
            "num_classes": 2,
            "model_args": {"features_only": True, "out_indices": [0, 1, 2, 3]},
        },
        "backbone_channel_list": [192, 48, 32, 32],
    },
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "florence_vision": {
        "embed_dim": [8, 16, 16, 32],
        "num_heads": [1, 2, 2, 2],
        "num_groups": [1, 2, 2, 2],
        "depths": [1, 1, 1, 1],
        "patch_size": [7, 3, 3, 3],
        "window_size": 4,
    },
    "gemma3n_vision": {"architecture": "test_efficientnet"},
    "grounding-dino": _SWIN_BACKBONE,
    "hgnet_v2": {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 8, 16, 32],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [8, 16, 32, 64],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 32, 64],
    },
    "hiera": {"embed_dim": 8, "patch_size": [7, 7], "image_size": [32, 32]},
    "janus_vqgan": {"base_channels": 32, "channel_multiplier": [1, 1]},
    "levit": {"patch_size": 16, "num_attention_heads": [2, 2, 2], "hidden_sizes": [16, 32, 32]},
    "llama4_vision_model": {
        "intermediate_size": 128,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "vision_output_dim": 32,
    },
    "lw_detr": {"projector_scale_factors": [1.0]},
    "lw_detr_vit": {"num_windows": 4},
    "mask2former": _SWIN_BACKBONE,
    "maskformer": _SWIN_BACKBONE,
    "maskformer-swin": _SWIN,
    "minicpm_ocr": {"insert_layer_id": 0},
    "minicpm_ocr_vision": {"insert_layer_id": 0},
    "minicpmv4_6": {"insert_layer_id": 0},
    "minicpmv4_6_vision": {"insert_layer_id": 0},
    "minicpmv4_7": {"insert_layer_id": 0},
    "minicpmv4_7_vision": {"insert_layer_id": 0},
    "mllama_vision_model": {"intermediate_layers_indices": [0], "num_global_layers": 1},
    "mm-grounding-dino": _SWIN_BACKBONE,
    "mobilevitv2": {"patch_size": 2},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "molmo2_vision": {"image_size": [32, 32], "num_position_embeddings": 16},
    "muse_spark_audio": {"num_hidden_layers": 4},
    "oneformer": _SWIN_BACKBONE,
    "pp_doclayout_v3": {**_DETR_CHANNELS, "x4_feat_dim": 8},
    "pp_doclayout_v4": _DETR_CHANNELS,
    "pp_ocrv6_medium_det": {
        "backbone_config": _PP_BACKBONE,
        "intraclass_block_config": _pp_intraclass(),
        "scale_factor_list": [1, 2, 4, 8],
        "kernel_list": [3, 2, 2],
    },
    "pp_ocrv6_small_det": {
        "backbone_config": _PP_BACKBONE,
        "layer_list_out_channels": [16, 16, 24, 32],
    },
    "rt_detr": _DETR_CHANNELS,
    "rt_detr_v2": _DETR_CHANNELS,
    "sam2_hiera_det_model": {
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3],
    },
    "sam2_vision_model": {"backbone_channel_list": [64, 32, 16, 8]},
    "swin": _SWIN,
    "swin2sr": {**_SWIN, "patch_size": 1, "upscale": 2},
    "swinv2": {**_SWIN, "pretrained_window_sizes": [0, 0]},
    "textnet": {"stem_out_channels": 8},
    "timm_backbone": {"backbone": "test_resnet"},
    "timm_wrapper": {"architecture": "test_resnet"},
    "unlimited_ocr_sam_vision_model": {"downsample_channels": [16, 32]},
    "uvdoc": {"backbone_config": {"out_features": [f"stage{i}" for i in range(1, 7)]}},
    # text
    "blt": {"encoder_hash_byte_group_vocab": 128},
    "canine": {"downsampling_rate": 2},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "clvp_encoder": {"hidden_size": 64, "num_attention_heads": 1},
    "codegen": {"n_head": 4, "n_embd": 64, "rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": dict.fromkeys(
            ("sliding_attention", "full_attention"),
            _multimodal_rope(3, 3, 2)["rope_parameters"],
        ),
    },
    "cosmos3_edge_text": _multimodal_rope(2, 3, 3),
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "emu3": {"vocabulary_map": {"<image>": 4}},
    "emu3_vqgan": {"base_channels": 32, "channel_multiplier": [1, 1], "codebook_size": 64},
    "ernie4_5_vl_moe_text": _multimodal_rope(3, 3, 2),
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "funnel": {"block_sizes": [1, 1]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4v_moe_text": _multimodal_rope(1, 1, 2),
    "glm4v_text": _multimodal_rope(2, 3, 3),
    "glm_image_text": _multimodal_rope(2, 3, 3),
    "glm_ocr_text": _multimodal_rope(2, 3, 3),
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gradium_phonon_tts": {"flow_head_config": {"condition_dim": 32}},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64},  # its bridge has one head per 64
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-1, 0]],
        "spatial_target_layers": [],
    },
    "hunyuan_vl_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "xdrope_section": [2] * 4}
    },
    "layoutlmv3": {
        "coordinate_size": 4,
        "shape_size": 8,
        "visual_embed": False,
        "max_2d_position_embeddings": 32,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 48, "intermediate_size": 64},
    "longcat_flash": {"qk_rope_head_dim": 16},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "mimi": {"upsample_groups": 32, "num_filters": 8, "codebook_size": 64},
    "mimo_v2_flash": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "nemotron": {"num_key_value_heads": 2},
    "paddleocr_vl_text": _multimodal_rope(2, 3, 3),
    "pocket_tts": {"flow_head_config": {"condition_dim": 32}},
    "qwen2_5_omni_text": _multimodal_rope(2, 3, 3),
    "qwen2_5_vl_text": _multimodal_rope(2, 3, 3),
    "qwen2_vl_text": _multimodal_rope(2, 3, 3),
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 16,
    },
    "seamless_m4t": _SEAMLESS,
    "seamless_m4t_v2": _SEAMLESS,
    "step3p5": {"sliding_window": 8},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "wavtokenizer": {"codebook_dim": 32},
    "wavtokenizer_encoder": {"codebook_dim": 32},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 12},
    "zamba2": {"num_hidden_layers": 54},
    "zaya": {"num_experts_per_tok": 1},
}
