"""NextItNet (Yuan et al., WSDM 2019) on item vectors, as PixelRec and NineRec run it.

Residual blocks of two causal convolutions, with dilations r and 2 r, each followed by layer
normalisation and ReLU; ``dilations`` are repeated ``block_num`` times. Zeros stand outside the
window. There is no padding mask: padding is read like items (the zero vector, or with
``pad_vector: encoded`` the vector of a blank item, as published).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole.model.sequential_recommender.nextitnet import ResidualBlock_b
from torch import Tensor, nn

from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder


@USER_ENCODERS.register("NextItNet")
class NextItNet(UserEncoder):
    """Dilated causal convolutions over item vectors.

    Args:
        dim: d, size of item vectors, channels and states.
        kernel_size: of the convolutions, in slots.
        block_num: how often the dilations are repeated.
        dilations: of the first convolution of a block; of the second it is twice that.
        output_layer: a linear layer at the end.
    """

    reads = frozenset({"kernel_size", "block_num", "dilations", "output_layer"})

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: int = 3,
        block_num: int = 3,
        dilations: Sequence[int] = (1, 4),
        output_layer: bool = False,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock_b(dim, dim, kernel_size=kernel_size, dilation=dilation)
            for dilation in list(dilations) * block_num
        )
        self.output = nn.Linear(dim, dim) if output_layer else nn.Identity()

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> NextItNet:
        return cls(
            config["embedding_size"],
            kernel_size=config["kernel_size"],
            block_num=config["block_num"],
            dilations=config["dilations"],
            output_layer=bool(config["output_layer"]),
        )

    def forward(self, history: History) -> Tensor:
        states = history.vectors  # [B, L, d]
        for block in self.blocks:
            states = block(states)
        return self.output(states)
