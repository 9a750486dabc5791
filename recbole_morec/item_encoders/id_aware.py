"""ODMT's item side: an item's words, picture and ID read each other and give three vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.data.content import ContentReader, open_content
from recbole_morec.data.content.state_store import StateStore
from recbole_morec.data.content.states import StateReader
from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.backbone import BackboneEncoder
from recbole_morec.item_encoders.base import Content, ItemEncoder, Reserved
from recbole_morec.item_encoders.build import build_item_encoder
from recbole_morec.item_encoders.freezing import find_units
from recbole_morec.item_encoders.id_aware_transformer import BRANCHES, IdAwareTransformer
from recbole_morec.item_encoders.pooling import masked_mean
from recbole_morec.item_encoders.prefix import NoPrefix, Prefix
from recbole_morec.item_encoders.settings import read_settings
from recbole_morec.item_encoders.stored import open_states

CONTENT = ("text", "image")


class IdAwareEncoder(ItemEncoder):
    """Tokens and ID of ``n`` items -> ``[n, 3, d]``: a vector for each branch.

    Args:
        name: the names that it was asked for by.
        item_num: N, rows of the ID table.
        dim: d.
        widths: sizes of an ID vector, a text token and an image token, by branch.
        branches: which of :data:`BRANCHES` are given, in this order.
        transformer: joins the tokens; ``None`` leaves the branches apart (an ablation): each is a
            linear map of the ID, of the words or of the picture.
        averaged: without a transformer, the modalities of which the mean of the tokens is read; of
            the others it is the first token.
        encoders: text and image encoders that run at every step; empty where their states are read
            from a store.
        tied: ``text`` or ``image``: its first token is the ID's row, without gradient (the
            published code shares that memory when the ID table starts from it).

    Attributes:
        reads: the modalities that the branches depend on.
    """

    def __init__(
        self,
        name: str,
        item_num: int,
        dim: int,
        widths: Mapping[str, int],
        branches: tuple[str, ...] = BRANCHES,
        transformer: IdAwareTransformer | None = None,
        encoders: Mapping[str, BackboneEncoder] | None = None,
        tied: str | None = None,
        averaged: tuple[str, ...] = (),
    ):
        super().__init__(name, dim)
        self.branches = branches
        self.reads = tuple(key for key in CONTENT if transformer is not None or key in branches)
        self.averaged = averaged
        self.tied = tied
        self.encoders = nn.ModuleDict(encoders or {})
        self.needs = [need for encoder in self.encoders.values() for need in encoder.needs]
        self.embedding = nn.Embedding(item_num, widths["id"], padding_idx=0)
        nn.init.xavier_normal_(self.embedding.weight)
        self.transformer = transformer
        if transformer is None:
            self.inputs = nn.ModuleDict({key: nn.Linear(widths[key], dim) for key in branches})
            self.embedding.requires_grad_("id" in branches)
        self.projection = nn.ModuleDict({key: _head(dim) for key in branches})

    def forward(self, content: Content) -> Tensor:
        """Return ``[n, 3, d]``.

        Args:
            content: ``items [n]`` and what the encoders read, or ``text_states [n, T, D]``,
                ``text_states_mask [n, T]`` and ``image_states [n, P, D]``.
        """
        ids = self.embedding(content["items"])  # [n, D_id]
        states, masks = self._states(content, ids)
        if self.transformer is None:
            single = {"id": ids}
            for key in self.reads:
                mean = key in self.averaged
                single[key] = masked_mean(states[key], masks[key]) if mean else states[key][:, 0]
            read = [self.inputs[key](single[key]) for key in self.branches]
        else:
            read = self.transformer(ids, states["text"], masks["text"], states["image"]).unbind(1)
        heads = zip(self.projection.values(), read, strict=True)
        return torch.stack([head(vector) for head, vector in heads], 1)

    def _states(self, content: Content, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tokens ``[n, T, D]`` by modality and the masks ``[n, T]`` of real ones."""
        states, masks = {}, {}
        for key in self.reads:
            if key in self.encoders:
                states[key], masks[key] = self.encoders[key].tokens(content)
            else:
                states[key] = content[f"{key}_states"].to(ids.dtype)
                masks[key] = content[f"{key}_states_mask"]
        if self.tied in states:
            rest = states[self.tied][:, 1:]
            states[self.tied] = torch.cat([ids.detach()[:, None], rest], 1)
        for key in self.reads:
            if masks[key] is None:
                masks[key] = torch.ones(states[key].shape[:2], dtype=torch.bool, device=ids.device)
        return states, masks

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the trainable parameters of the encoders that run at every step."""
        for encoder in self.encoders.values():
            yield from encoder.encoder_parameters()

    @property
    def batch_dependent(self) -> bool:
        """Whether an encoder that runs at every step is."""
        return any(encoder.batch_dependent for encoder in self.encoders.values())

    def normalised(self, content: Content) -> Content:
        """Return the content as every encoder reads it."""
        for encoder in self.encoders.values():
            content = encoder.normalised(content)
        return content

    def reserved(self, kind: Reserved) -> Content:
        setting = "pad_vector: zero" if kind == "pad" else "mask_vector: learned"
        raise ConfigError(
            f"{kind}_vector: ODMT keeps no tokens for padding or a mask; use {setting}."
        )

    def architecture(self) -> dict[str, Any]:
        """The architectures of the encoders that run at every step, by modality."""
        members = {key: encoder.architecture() for key, encoder in self.encoders.items()}
        return {"name": self.name, "members": members}


def build_id_aware(config: Any, dataset: Any, load_weights: bool) -> IdAwareEncoder:
    """Build ODMT's item side from the settings.

    Encoders of which nothing trains run once: their states are stored in the dataset's folder,
    ``prepared/states-*``, and the encoders are dropped. They are no part of a checkpoint.

    Raises:
        ConfigError: ``item_encoder`` does not name one text and one image encoder, one of them has
            no such layer, or sizes differ where an ID starts from features.
        DataError: the disk is too full for the states.
    """
    names = config["item_encoder"]
    names = [names] if isinstance(names, str) else list(names)
    stored = stands_still(config["train_layers"])
    saved = config["item_encoder_architecture"] or {}
    built = {}
    for name in names:
        # Tokens are read, so that what only a pooling head has does not train, nor a projection.
        single = {**_plain(config), "item_encoder": name, "pooling": "mean"}
        single["projection_layers"] = "none"
        single["item_encoder_architecture"] = saved
        encoder = build_item_encoder(single, dataset, load_weights or stored)
        built[_modality(encoder)] = encoder
    if sorted(built) != sorted(CONTENT) or len(names) != 2:
        raise ConfigError(
            f"item_encoder={names}: ODMT reads one text and one image encoder; use "
            "item_encoder=image+text, or name one of each."
        )
    stores = {}
    if stored:
        prefixes = {key: _prefix(config, encoder) for key, encoder in built.items()}
        stores = {key: _store(config, dataset, built[key], prefixes[key]) for key in built}
    widths = {key: store.width for key, store in stores.items()}
    widths = widths or {key: _width(encoder) for key, encoder in built.items()}
    widths["id"] = config["id_embedding_size"] or config["embedding_size"]
    branches = tuple(branch for branch in BRANCHES if branch in config["branches"])
    transformer, averaged = None, ()
    if not config["item_transformer"]:
        averaged = tuple(key for key in CONTENT if _averages(config, built[key]))
    else:
        transformer = IdAwareTransformer(
            config["embedding_size"],
            widths,
            branches=branches,
            layers=config["item_transformer_layers"],
            heads=config["item_transformer_heads"],
            dropout=config["hidden_dropout_prob"],
            version=config["item_transformer_mask"],
        )
    encoder = IdAwareEncoder(
        " + ".join(names),
        dataset.item_num,
        config["embedding_size"],
        widths,
        branches,
        transformer,
        {} if stored else {key: built[key] for key in built if transformer or key in branches},
        config["id_init"] if config["tie_cls_feature"] else None,
        averaged,
    )
    if stored:
        readers = [StateReader(f"{key}_states", stores[key]) for key in encoder.reads]
        encoder.needs = [ContentReader(readers)]
    if config["id_init"] != "random":
        _start_from_features(encoder, config["id_init"], stores, dataset.item_num)
    return encoder


def stands_still(train_layers: Any) -> bool:
    """Whether neither encoder trains, by ``train_layers``."""
    if isinstance(train_layers, Mapping):
        return all(train_layers.get(kind) == "none" for kind in CONTENT)
    return train_layers == "none"


def _plain(config: Any) -> Mapping[str, Any]:
    return getattr(config, "final_config_dict", config)


def _modality(encoder: ItemEncoder) -> str:
    if not isinstance(encoder, BackboneEncoder) or encoder.card.modality not in CONTENT:
        raise ConfigError(f"item_encoder={encoder.name}: ODMT reads text and images only.")
    return encoder.card.modality


def _averages(config: Any, encoder: BackboneEncoder) -> bool:
    """Whether a branch apart reads the mean of the tokens, as ``pooling`` says: of an encoder with
    a pooling head of its own, where there is no class token."""
    pooling = read_settings(config, encoder.card.modality).pooling
    if pooling == "default":
        pooling = encoder.card.pooling or pooling
    if pooling in ("default", "pooler"):
        return not encoder.has_class_token
    return pooling not in ("cls", "first")


@torch.no_grad()
def _width(encoder: BackboneEncoder) -> int:
    return encoder.tokens(encoder.probe_content())[0].shape[-1]


def _prefix(config: Any, encoder: BackboneEncoder) -> Prefix | None:
    """The blocks whose states ``states_layer`` asks for; ``None`` for what the encoder gives."""
    layer = config["states_layer"]
    layer = layer.get(_modality(encoder)) if isinstance(layer, dict) else layer
    if layer is None:
        return None
    if any(getattr(need, "apart", False) for need in encoder.needs):
        raise ConfigError(
            f"states_layer={layer}: fields that are encoded apart (text_fields_as=averaged) have "
            "no states of their own; leave one of the two at its default."
        )
    return _layers(encoder, layer)


def _store(
    config: Any, dataset: Any, encoder: BackboneEncoder, prefix: Prefix | None
) -> StateStore:
    """The tokens of all items under a frozen encoder, from the dataset's folder."""
    encoder = encoder.to(config["device"])
    content = open_content(dataset, encoder.needs, config)
    if prefix is None:
        names = list(encoder.backbone.state_dict())
        return open_states(encoder, names, "its tokens", content, encoder.tokens, dataset, config)

    def states(fetched: Content) -> tuple[Tensor, Tensor | None]:
        return prefix.states(fetched), fetched.get("text_mask")

    what = f"the states after {prefix.unit} blocks"
    return open_states(encoder, prefix.names, what, content, states, dataset, config)


def _layers(encoder: BackboneEncoder, layer: int) -> Prefix:
    """The first ``layer`` blocks of an encoder (negative: counted from its end)."""
    units = find_units(encoder.backbone)
    count = 0 if units is None else len(units.names)
    number = layer if layer > 0 else count + 1 + layer
    if not 1 <= number <= count:
        raise ConfigError(
            f"states_layer={layer}: {encoder.name} has {count} blocks; use 1 to {count}, -1 to "
            f"-{count} counted from the end, or leave it empty for what the encoder gives."
        )
    try:
        return Prefix(encoder, number)
    except NoPrefix as reason:
        raise ConfigError(f"states_layer={layer}: {encoder.name}: {reason}.") from reason


@torch.no_grad()
def _start_from_features(
    encoder: IdAwareEncoder, start: str, stores: Mapping[str, StateStore], item_num: int
) -> None:
    """Fill the ID table with first tokens: of the text, of the image, or their mean."""
    kinds = CONTENT if start == "mean" else (start,)
    table = encoder.embedding.weight
    wrong = [kind for kind in kinds if stores[kind].width != table.shape[1]]
    if wrong:
        raise ConfigError(
            f"id_init={start}: tokens of the {wrong[0]} encoder have {stores[wrong[0]].width} "
            f"numbers; use id_embedding_size={stores[wrong[0]].width}."
        )
    for first in range(1, item_num, 1024):
        items = torch.arange(first, min(first + 1024, item_num))
        heads = [stores[kind].fetch(items.numpy())[0][:, 0].to(table) for kind in kinds]
        table[items] = sum(heads) / len(heads)


def _head(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(0.01), nn.Linear(dim, dim))
