"""GRU4Rec (Hidasi et al., ICLR 2016; Tan et al., DLRS 2016) on item vectors.

As PixelRec and NineRec run it:

``states = W GRU(e_1 .. e_L) + b``; NineRec has no output layer. There is no padding mask: the GRU
starts at the left edge and reads padding like items (the zero vector, or with
``pad_vector: encoded`` the vector of a blank item, as published).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder


@USER_ENCODERS.register("GRU4Rec")
class GRU4Rec(UserEncoder):
    """Gated recurrent units over item vectors.

    Args:
        dim: d, size of item vectors and states.
        n_layers: stacked units.
        hidden_multiplier: width of the units is this many times d.
        output_layer: a linear layer from the units' width to d; needed where the width is not d.
        hidden_dropout_prob: dropout of the item vectors.

    Raises:
        ConfigError: ``output_layer`` is False and the width is not d.
    """

    reads = frozenset({"n_layers", "hidden_multiplier", "output_layer", "hidden_dropout_prob"})

    def __init__(
        self,
        dim: int,
        *,
        n_layers: int = 1,
        hidden_multiplier: int = 1,
        output_layer: bool = True,
        hidden_dropout_prob: float = 0.0,
    ):
        super().__init__()
        width = hidden_multiplier * dim
        if width != dim and not output_layer:
            raise ConfigError(
                f"output_layer=False: GRU4Rec's units are hidden_multiplier={hidden_multiplier} "
                f"times embedding_size={dim} wide, and states need {dim}; leave output_layer out, "
                "or use hidden_multiplier=1."
            )
        self.dropout = nn.Dropout(hidden_dropout_prob)
        self.gru = nn.GRU(dim, width, n_layers, bias=False, batch_first=True)
        self.output = nn.Linear(width, dim) if output_layer else nn.Identity()
        # Of the units only the first layer is drawn anew; deeper ones keep PyTorch's start.
        nn.init.xavier_uniform_(self.gru.weight_ih_l0)
        nn.init.xavier_uniform_(self.gru.weight_hh_l0)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> GRU4Rec:
        return cls(
            config["embedding_size"],
            n_layers=config["n_layers"],
            hidden_multiplier=config["hidden_multiplier"],
            output_layer=config["output_layer"] is not False,
            hidden_dropout_prob=config["hidden_dropout_prob"],
        )

    def forward(self, history: History) -> Tensor:
        states, _ = self.gru(self.dropout(history.vectors))  # [B, L, width]
        return self.output(states)
