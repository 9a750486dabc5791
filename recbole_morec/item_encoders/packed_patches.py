"""Images as the patches that vision towers of language models read (Qwen-VL, GLM-V, SigLIP 2).

These towers take no ``[n, 3, H, W]`` but what their own image processors make of it: the patches of
all images one after another, and the size of each image in patches. The order of the patches, and
of the values of a patch, differs by model. Items have images of one size, so that a packed output
``[n * T, D]`` is ``[n, T, D]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError

USUAL_SIZE = 224  # pixels; these models take any size and name none
_MERGES = (
    *("spatial_merge_size", "merge_kernel_size", "merge_size", "pooling_kernel_size"),
    "window_kernel_size",
)


@dataclass(frozen=True)
class Layout:
    """How one kind of tower reads images.

    Attributes:
        make: normalised pixels ``[n, 3, H, W]`` and the tower's config -> inputs of its forward.
        pooler: whether ``pooler_output`` is about the items: one vector each, or merged tokens.
        any_size: whether the image size is free, and not ``image_size`` of the config.
    """

    make: Callable[[Tensor, Any], dict[str, Tensor]]
    pooler: bool = True
    any_size: bool = True

    def inputs(self, pixels: Tensor, tower: nn.Module) -> dict[str, Tensor]:
        """Return the arguments of ``tower.forward`` for normalised pixels ``[n, 3, H, W]``."""
        inputs = self.make(pixels, tower.config)
        if "pixel_values" not in inspect.signature(tower.forward).parameters:
            inputs["hidden_states"] = inputs.pop("pixel_values")  # as Qwen-VL names them
        return inputs

    def tokens(self, states: Tensor, n: int) -> Tensor:
        """Last hidden states in the tower's shape -> ``[n, T, D]``."""
        if states.ndim == 5:  # [n, 1, tiles, T, D] of Mllama, where only the first tile is real
            states = states[:, 0, 0]
        if states.ndim == 4:  # a feature map [n, D, H, W]
            states = states.flatten(2).transpose(1, 2)
        return states.reshape(n, -1, states.shape[-1])

    def pooled(self, output: Tensor | None, n: int) -> Tensor | None:
        """Pooler output -> ``[n, D]``: the item's vector, or the mean of its merged tokens."""
        if output is None or not self.pooler:
            return None
        return output.reshape(n, -1, output.shape[-1]).mean(dim=1)

    def check_size(self, size: int, config: Any, name: str) -> None:
        """Refuse an image size that cannot be cut into whole blocks of patches.

        Raises:
            ConfigError: naming the step of the sizes that can.
        """
        step = _step(config)
        if self.any_size and size % step:
            raise ConfigError(
                f"image_size: {name} reads images of a multiple of {step} pixels, not {size}; set "
                f"image_size: {round_size(size, config)}."
            )


def cut(pixels: Tensor, patch: int, merge: int, order: str, frames: int = 1) -> Tensor:
    """Cut images ``[n, 3, H, W]`` into flat patches ``[n, T, values]``.

    Args:
        pixels: the images.
        patch: side of a patch in pixels.
        merge: patches come in blocks of ``merge x merge``; 1 is row by row.
        order: the axes of a patch from outer to inner: **c**hannel, **t**ime, row **y**, column
            **x**.
        frames: how often the image is repeated in time.
    """
    n, channels, height, width = pixels.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    blocks = pixels.reshape(n, channels, 1, rows, merge, patch, columns, merge, patch)
    blocks = blocks.expand(-1, -1, frames, -1, -1, -1, -1, -1, -1)
    axes = [{"c": 1, "t": 2, "y": 5, "x": 8}[axis] for axis in order]
    blocks = blocks.permute(0, 3, 6, 4, 7, *axes)
    return blocks.reshape(n, rows * columns * merge * merge, -1)


def _int(value: Any) -> int:
    return value if isinstance(value, int) else value[0]


def merge_of(config: Any) -> int:
    """Return the side of the blocks of patches that the tower merges to one token."""
    for name in _MERGES:
        if getattr(config, name, None) is not None:
            return _int(getattr(config, name))
    return 1


def _step(config: Any) -> int:
    return _int(config.patch_size) * merge_of(config)


def round_size(size: int, config: Any) -> int:
    """Return the image size nearest to ``size`` that falls into whole blocks of patches."""
    return max(1, round(size / _step(config))) * _step(config)


def frames_of(config: Any) -> int:
    """Return how many frames of a video make one patch; an image is repeated so often."""
    for name in ("temporal_patch_size", "patch_temporal"):
        if getattr(config, name, None) is not None:
            return _int(getattr(config, name))
    return 1


def _grid(pixels: Tensor, patch: int) -> Tensor:
    """Time, height and width of each image in patches, ``[n, 3]``."""
    size = [1, pixels.shape[-2] // patch, pixels.shape[-1] // patch]
    return torch.tensor([size] * len(pixels), device=pixels.device)


def _packed(blocks: bool, order: str) -> Callable[[Tensor, Any], dict[str, Tensor]]:
    def make(pixels: Tensor, config: Any) -> dict[str, Tensor]:
        patch = _int(config.patch_size)
        merge = merge_of(config) if blocks else 1
        patches = cut(pixels, patch, merge, order, frames_of(config))
        return {"pixel_values": patches.flatten(0, 1), "grid_thw": _grid(pixels, patch)}

    return make


_qwen = _packed(blocks=True, order="ctyx")
_rows = _packed(blocks=False, order="ctyx")


def _video_llama(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """Images are not merged, only videos are."""
    inputs = _rows(pixels, config)
    ones = torch.ones(len(pixels), dtype=torch.long, device=pixels.device)
    return {**inputs, "merge_sizes": ones}


def _kimi(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """Patches stay small images, ``[n * T, 3, p, p]``."""
    inputs, patch = _rows(pixels, config), _int(config.patch_size)
    inputs["pixel_values"] = inputs["pixel_values"].unflatten(1, (-1, patch, patch))
    return inputs


def _paddle(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """As Kimi, in a batch of one, ``[1, n * T, 3, p, p]``."""
    inputs = _kimi(pixels, config)
    return {**inputs, "pixel_values": inputs["pixel_values"].unsqueeze(0)}


def _inkling2(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """One patch per merged token, ``[n * T, P, P, 3]``; the grid counts these."""
    patch = _int(config.patch_size) * merge_of(config)
    patches = cut(pixels, patch, 1, "tyxc").flatten(0, 1).unflatten(1, (patch, patch, -1))
    return {"pixel_values": patches, "image_grid_thw": _grid(pixels, patch)}


def _inkling(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """Patches as little videos, ``[n * T, frames, p, p, 3]``, without a grid.

    The empty patch that its processor puts at the end of each row is left out: every patch is
    encoded by itself, so it would add the same tokens to all images.
    """
    patch, frames = _int(config.patch_size), frames_of(config)
    patches = cut(pixels, patch, 1, "tyxc", frames).flatten(0, 1)
    return {"pixel_values": patches.unflatten(1, (frames, patch, patch, -1))}


def _naflex(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """SigLIP 2: ``[n, T, p * p * 3]``, a mask of real patches, height and width in patches."""
    patch = _int(config.patch_size)
    patches = cut(pixels, patch, 1, "tyxc")
    mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device)
    shapes = _grid(pixels, patch)[:, 1:]
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def _gemma4(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """``[n, T, p * p * 3]`` and column and row of each patch."""
    patch = _int(config.patch_size)
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
    places = places.to(pixels.device).expand(len(pixels), -1, -1)
    return {"pixel_values": cut(pixels, patch, 1, "tyxc"), "pixel_position_ids": places}


def _minicpm(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """All patches side by side in one picture, ``[1, 3, p, n * T * p]``."""
    patch = _int(config.patch_size)
    patches = cut(pixels, patch, 1, "ctyx").flatten(0, 1).unflatten(1, (-1, patch, patch))
    strip = patches.permute(1, 2, 0, 3).flatten(2).unsqueeze(0)
    return {"pixel_values": strip, "target_sizes": _grid(pixels, patch)[:, 1:].to(torch.int32)}


def _molmo2(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """One crop per image, ``[n, T, p * p * 3]``, for a grid of fixed size."""
    return {"pixel_values": cut(pixels, _int(config.patch_size), 1, "tyxc")}


def _whole(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """Plain images, where only the name of the input differs."""
    return {"pixel_values": pixels}


def _mllama(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """One tile per image, the other tiles are empty: ``[n, 1, tiles, 3, H, W]``."""
    n, tiles = len(pixels), config.max_num_tiles
    padded = pixels.new_zeros(n, 1, tiles, *pixels.shape[1:])
    padded[:, 0, 0] = pixels
    mask = torch.zeros(n, 1, tiles, dtype=torch.long, device=pixels.device)
    mask[..., 0] = 1
    one = config.supported_aspect_ratios.index([1, 1]) + 1  # 0 is for no image
    ids = torch.full((n, 1), one, device=pixels.device)
    return {"pixel_values": padded, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask}


_QWEN = Layout(_qwen)
_MUSE = Layout(_packed(blocks=False, order="tcyx"))
_HUNYUAN = Layout(_rows)
_MINICPM = Layout(_minicpm)
LAYOUTS: dict[str, Layout] = {
    "cohere_compass_vision": _QWEN,
    "cosmos3_edge_vision": Layout(_packed(blocks=True, order="yxct")),
    "dots3_note_vision_encoder": _QWEN,
    "ernie4_5_vl_moe_vision": _QWEN,
    "exaone4_5_vision": _QWEN,
    "florence_vision": Layout(_whole, any_size=False),
    "gemma4_vision": Layout(_gemma4),
    "glm4v_moe_vision": _QWEN,
    "glm4v_vision": _QWEN,
    "glm5_next_vision": _QWEN,
    "glm_image_vision": _QWEN,
    "glm_ocr_vision": _QWEN,
    "hunyuan_vl_vision": _HUNYUAN,
    "hy_v4_vl_vision": _HUNYUAN,
    "inkling2_vision": Layout(_inkling2),
    "inkling_vision": Layout(_inkling),
    "kimi_k25_vision": Layout(_kimi),
    "lfm3_vl_vision": _QWEN,
    "minicpm_ocr_vision": _MINICPM,
    "minicpmv4_6_vision": _MINICPM,
    "minicpmv4_7_vision": _MINICPM,
    # its pooler takes the first token of the whole pack
    "minimax_m3_vl_vision": Layout(_qwen, pooler=False),
    "mllama_vision_model": Layout(_mllama, any_size=False),
    "molmo2_vision": Layout(_molmo2, any_size=False),
    "muse_glimmer_vision": _MUSE,
    "muse_spark_vision": _MUSE,
    "paddleocr_vl_vision": Layout(_paddle),
    "qwen2_5_omni_vision_encoder": _QWEN,
    "qwen2_5_vl_vision": _QWEN,
    "qwen2_vl_vision": _QWEN,
    "qwen3_5_moe_vision": _QWEN,
    "qwen3_5_vision": _QWEN,
    "qwen3_omni_moe_vision_encoder": _QWEN,
    "qwen3_vl_moe_vision": _QWEN,
    "qwen3_vl_vision": _QWEN,
    "qwen4_exp_vision": _QWEN,
    "siglip2_vision_model": Layout(_naflex),
    "video_llama_3_vision": Layout(_video_llama),
}


def layout_for(config: Any) -> Layout | None:
    """Return how the tower of this config reads images, None for plain ``[n, 3, H, W]``."""
    return LAYOUTS.get(getattr(config, "model_type", None))
