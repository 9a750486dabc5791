"""What frozen parts of an item encoder give for every item, kept on disk in the content's place.

A backbone that does not train gives an item the same vector in every step, and one of which the
last blocks train gives the same states before them. Both are computed once per item, stored in the
dataset's folder (:mod:`recbole_morec.data.content.state_store`) and read by the batches and the
catalogue instead of images and texts: frozen and partly trained encoders take one path.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_morec.data.content import ContentReader, UnreadableImagesError
from recbole_morec.data.content.state_making import stored_states
from recbole_morec.data.content.state_store import StateStore
from recbole_morec.data.content.states import StateReader
from recbole_morec.errors import DataError
from recbole_morec.item_encoders.backbone import BackboneEncoder
from recbole_morec.item_encoders.base import Content, ItemEncoder
from recbole_morec.item_encoders.fusion import FusionEncoder
from recbole_morec.item_encoders.prefix import NoPrefix, Prefix

_log = logging.getLogger(__name__)
_SOURCES = {"image": "image", "text": "text_ids"}  # the content that an encoder reads
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Encode = Callable[[Content], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Stored:
    """What is stored of one encoder.

    Attributes:
        key: the content's key under which it is read.
        what: the same in words.
        names: entries of the backbone's ``state_dict`` that it depends on.
        encode: content -> ``[n, T, D]`` and the mask of real tokens.
        vector: whether an item has one vector, ``[n, D]``.
        prefix: where the backbone is cut, if it is.
    """

    key: str
    what: str
    names: list[str]
    encode: Encode
    vector: bool = False
    prefix: Prefix | None = None


def plan(encoder: BackboneEncoder) -> Stored:
    """Choose what of an encoder can be stored.

    Raises:
        NoPrefix: everything trains, or the backbone cannot be cut.
    """
    if encoder.batch_dependent and not _trains(encoder):
        raise NoPrefix("its BatchNorm statistics follow the batches")
    names = list(encoder.backbone.state_dict())
    if encoder.card.modality == "text" and not encoder.ignores_padding():
        raise NoPrefix("its vectors depend on how far its texts are padded")
    if not _trains(encoder):
        if encoder.pooling == "project_mean":
            return Stored(encoder.tokens_key, "its tokens", names, encoder.tokens)
        return Stored(encoder.pooled_key, "its vectors", names, _pooled(encoder), vector=True)
    apart = any(getattr(need, "apart", False) for need in encoder.needs)
    if apart:
        raise NoPrefix("its fields are encoded apart (text_fields_as)")
    prefix = Prefix(encoder)
    prefix.check()
    of = f"{prefix.unit} of its {len(prefix.units)} blocks"
    return Stored(
        encoder.states_key, f"the states after {of}", prefix.names, _states(encoder, prefix),
        prefix=prefix,
    )  # fmt: skip


def _trains(encoder: BackboneEncoder) -> bool:
    return next(encoder.encoder_parameters(), None) is not None


def _pooled(encoder: BackboneEncoder) -> Encode:
    def encode(content: Content) -> tuple[Tensor, None]:
        vectors = encoder.pooled(content)
        return vectors if vectors.ndim == 3 else vectors.unsqueeze(1), None

    return encode


def _states(encoder: BackboneEncoder, prefix: Prefix) -> Encode:
    def encode(content: Content) -> tuple[Tensor, Tensor | None]:
        return prefix.states(content), content.get(f"{encoder.card.modality}_mask")

    return encode


def backbones_of(encoder: ItemEncoder) -> list[BackboneEncoder]:
    """The encoders with a backbone: this one, or those of a fusion's members that have one."""
    members = encoder.members.values() if isinstance(encoder, FusionEncoder) else [encoder]
    return [each for each in members if isinstance(each, BackboneEncoder)]


class StoredParts:
    """Puts stored states in the place of an item encoder's content.

    Args:
        encoder: the item encoder, or a fusion of several.
        reader: of the content that it needs; its parts are replaced in place, so that whoever
            fetches from it gets the stored states.
        dataset: has ``folder`` and ``item_num``.
        config: the keys ``store_states``, ``states_dtype``, ``mixed_precision``, ``transform``,
            ``encode`` and ``show_progress``.

    Attributes:
        by_encoder: what is stored of which encoder.
        builds: False opens stores that are complete and makes none, which a single pass over the
            items is not worth.
    """

    def __init__(self, encoder: ItemEncoder, reader: ContentReader, dataset: Any, config: Any):
        self._encoders = backbones_of(encoder)
        self._reader = reader
        self._own = list(reader.readers)
        self._dataset = dataset
        self._config = config
        self._made_from: list[tuple] | None = None
        self.by_encoder: dict[BackboneEncoder, Stored] = {}
        self.builds = True

    def prepare(self) -> None:
        """Make or open the stores, if the weights are others than at the last call.

        Raises:
            DataError: ``store_states: True`` and they cannot be stored.
            UnreadableImagesError: states are lacking, and images are damaged.
        """
        choice = self._config["store_states"]
        if choice is False or not self._encoders:
            return
        if self._versions() == self._made_from:
            return
        self._reader.readers = list(self._own)
        self.by_encoder = {}
        for encoder in self._encoders:
            encoder.prefix = None
            try:
                self._replace(encoder)
            except NoPrefix as reason:
                if choice is True and _is_partly_frozen(encoder):
                    raise DataError(f"store_states=True: {encoder.name}: {reason}.") from None
                _log.info("%s: nothing is stored, as %s", encoder.name, reason)
            except UnreadableImagesError:
                raise
            except (DataError, OSError) as error:
                if choice is True:
                    raise
                _log.warning("%s: encoded in every step: %s", encoder.name, error)
        read = self._reader.readers
        ContentReader([reader for reader in self._own if reader not in read]).release()
        self._made_from = self._versions()

    def _versions(self) -> list[tuple[int, int]]:
        """What tells whether the weights are others: not those that train, nor the statistics of
        BatchNorm behind a prefix, which change in every step."""
        tensors: list[torch.Tensor] = []
        for encoder in self._encoders:
            if encoder in self.by_encoder:
                state = encoder.backbone.state_dict()
                tensors += [state[name] for name in self.by_encoder[encoder].names]
            else:
                tensors += [p for p in encoder.backbone.parameters() if not p.requires_grad]
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors]

    def _replace(self, encoder: BackboneEncoder) -> None:
        if self._config["encode"] == "every_slot":
            raise NoPrefix("encode=every_slot reads every slot's content")
        stored = plan(encoder)
        modality = encoder.card.modality
        source = ContentReader([r for r in self._own if _SOURCES[modality] in r.keys])
        store = open_states(
            encoder, stored.names, stored.what, source, stored.encode, self._dataset, self._config,
            self.builds,
        )  # fmt: skip
        if store is None:
            _log.info("%s: encoded directly, as no complete store is there", encoder.name)
            return
        _log.info("%s: %s are read from %s", encoder.name, stored.what, store.folder)
        encoder.prefix = stored.prefix
        self.by_encoder[encoder] = stored
        keeps = stored.prefix is not None and modality == "text"  # the tail reads the mask
        self._reader.readers = [
            *(r for r in self._reader.readers if keeps or _SOURCES[modality] not in r.keys),
            StateReader(stored.key, store, stored.vector, mask=stored.prefix is None),
        ]


def _is_partly_frozen(encoder: BackboneEncoder) -> bool:
    return any(not p.requires_grad for p in encoder.backbone.parameters())


def open_states(
    encoder: BackboneEncoder,
    names: Iterable[str],
    what: str,
    content: ContentReader,
    encode: Encode,
    dataset: Any,
    config: Any,
    build: bool = True,
) -> StateStore | None:
    """The store of what an encoder gives for all items, made where it is not there.

    Args:
        encoder: on the device where it computes.
        names: entries of its backbone's ``state_dict`` that this depends on.
        what: which of its states they are; tells stores of one encoder apart.
        content: reader of what ``encode`` reads.
        encode: content -> states ``[n, T, D]`` and mask.
        dataset: has ``folder`` and ``item_num``.
        config: the keys ``states_dtype``, ``mixed_precision``, ``transform``, ``show_progress``.
        build: False makes nothing, and gives ``None`` if any of it is lacking.

    Raises:
        DataError: the disk is too full for them.
    """
    device = next(encoder.backbone.parameters()).device
    half = config["mixed_precision"] if config["states_dtype"] != "fp32" else "no"
    dtype = config["states_dtype"] or ("fp32" if half == "no" else half)
    facts = {"architecture": encoder.architecture(), "pooling": encoder.pooling, "what": what}
    facts |= {"weights": _digest(encoder, names), "dtype": dtype, "precision": half}
    facts |= {"transform": config["transform"]}
    for need in encoder.needs:
        facts |= {k: v for k, v in vars(need).items() if isinstance(v, int | str | tuple)}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def encode_half(fetched: Content) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(device.type, DTYPES[half], enabled=half != "no"):
            return encode(fetched)

    training = encoder.training
    encoder.eval()
    try:
        return stored_states(
            Path(dataset.folder) / "prepared" / f"states-{key}",
            dataset.item_num,
            content,
            encode if half == "no" else encode_half,
            device=device,
            dtype=DTYPES[dtype],
            progress=bool(config["show_progress"]),
            build=build,
        )
    finally:
        encoder.train(training)


def _digest(encoder: BackboneEncoder, names: Iterable[str]) -> str:
    digest, state = hashlib.sha256(), encoder.backbone.state_dict()
    for name in names:
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
