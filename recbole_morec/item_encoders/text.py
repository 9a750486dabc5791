"""Text encoders: the text models of ``transformers``, by hub id, local folder or card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.backbone import BackboneEncoder, first_tensor
from recbole_morec.item_encoders.base import Content, Reserved, TextNeed
from recbole_morec.item_encoders.prefix import alike
from recbole_morec.item_encoders.registry import EncoderCard
from recbole_morec.item_encoders.settings import EncoderSettings
from recbole_morec.item_encoders.text_buckets import length_buckets
from recbole_morec.item_encoders.tokenizer import find_tokenizer
from recbole_morec.item_encoders.transformers_models import (
    check_inputs,
    has_pooler,
    input_names,
    make_model,
    plain_config,
    tower_config,
)

MASK_SENTENCE = "this is a mask sentence"  # NineRec's text of BERT4Rec's mask


class TextEncoder(BackboneEncoder):
    """A ``transformers`` text model; of encoder-decoder models (T5, BART), the encoder.

    ``pooling: default`` is the card's own; for the text tower of a model that has one for images
    too (CLIP), what it compares with images; else the first token where the tokenizer puts a class
    token there (BERT, RoBERTa), else the mean of the real tokens (OPT, T5), as MoRec does.
    """

    def __init__(
        self,
        card: EncoderCard,
        backbone: nn.Module,
        config: Any,
        tokenizer: Any,
        settings: EncoderSettings,
    ):
        super().__init__(card, backbone, settings)
        self.config = config
        fields, apart = settings.text_fields or (), settings.text_fields_as == "averaged"
        self.needs = [TextNeed(tokenizer, fields, settings.max_text_length, apart)]
        self._inputs = input_names(type(backbone))
        self._by_length = settings.text_buckets
        self._padding_ignored: bool | None = None
        check_inputs(backbone, "input_ids", card.name)
        try:
            if self.pooling in ("default", "cls"):
                self._choose_pooling(tower=tower_config(config, "text") is not config)
            self.finish(settings)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"item_encoder {card.name!r}: {type(backbone).__name__} does not work as a text "
                f"encoder ({type(error).__name__}: {error})."
            ) from error

    def probe_content(self) -> Content:
        """One short text."""
        ids = self.needs[0].tokenizer("a red shirt", return_tensors="pt")["input_ids"]
        ids = ids.to(self._device)
        return {"text_ids": ids, "text_mask": torch.ones_like(ids, dtype=torch.bool)}

    def sample_content(self) -> Content:
        """Three texts of different lengths, out of the first words of the tokenizer."""
        (row,) = self.probe_content()["text_ids"]
        ids = torch.stack([row, row.roll(1), row.flip(0)])
        ids[:, 0] = row[0]
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[1, -1:] = mask[2, -2:] = False
        return {"text_ids": ids, "text_mask": mask}

    def reserved(self, kind: Reserved) -> Content:
        """NineRec's rows: ``max_length`` zeros of which none is real for padding, and a sentence
        for a mask. Of fields apart, the text of every field."""
        items = torch.zeros(1, dtype=torch.long)
        if kind == "mask":
            tokens = self.needs[0].tokenizer(MASK_SENTENCE, return_tensors="pt")
            mask = tokens["attention_mask"].bool()
            return {"items": items, "text_ids": tokens["input_ids"], "text_mask": mask}
        ids = torch.zeros(1, self.needs[0].max_length, dtype=torch.long)
        return {"items": items, "text_ids": ids, "text_mask": ids > 0}

    @torch.no_grad()
    def _choose_pooling(self, tower: bool) -> None:
        """Settle ``default``, and whether the first token stands for the text.

        Two texts that differ in their second token tell a model that reads left to right: its
        first token sees only itself.
        """
        self.backbone.eval()
        tokenizer = self.needs[0].tokenizer
        ids = self.probe_content()["text_ids"].repeat(2, 1)
        ids[1, 1] = (ids[0, 1] + 1) % len(tokenizer)
        outputs = self._run({"text_ids": ids, "text_mask": torch.ones_like(ids) > 0})
        if self.pooling == "default" and tower and outputs.get("pooler_output") is not None:
            self.pooling = "pooler"
            return
        states = self._states(outputs)
        if states.shape[1] == 1:
            self.pooling = "pooler" if self.pooling == "default" else self.pooling
            return
        first = states[:, 0]
        blind = torch.allclose(first[0], first[1], rtol=1e-5, atol=1e-6)
        self.has_class_token = _starts_with_class_token(tokenizer) and not blind
        if self.pooling == "default":
            self.pooling = "cls" if self.has_class_token else "masked_mean"

    def _run(self, content: Content) -> Any:
        ids, mask = content["text_ids"], content["text_mask"]
        if not mask.any():
            return self._run_unmasked(ids)
        # A fully masked row makes attention NaN, and NaN spreads; let it see its first token.
        first = torch.zeros_like(mask)
        first[:, 0] = True
        attention = torch.where(mask.any(dim=1, keepdim=True), mask, first)
        inputs = {"input_ids": ids, "attention_mask": attention.to(torch.long)}
        inputs = {name: value for name, value in inputs.items() if name in self._inputs}
        if "use_cache" in self._inputs:
            inputs["use_cache"] = False
        with self.resumed(content):
            return self.backbone(**inputs, return_dict=True)

    def _run_unmasked(self, ids: Tensor) -> Any:
        """Rows of padding alone (``pad_vector: encoded``): as published, every place attends to all
        places alike. Only the plain attention does that; the fused ones give zeros."""
        attention = self.backbone.config._attn_implementation
        inputs = {"input_ids": ids, "attention_mask": torch.zeros_like(ids)}
        inputs = {name: value for name, value in inputs.items() if name in self._inputs}
        self.backbone.set_attn_implementation("eager")
        try:
            return self.backbone(**inputs, return_dict=True)
        finally:
            self.backbone.set_attn_implementation(attention)

    def forward(self, content: Content) -> Tensor:
        """Return item vectors ``[n, d]``: of fields apart, the mean of the fields' vectors."""
        if self.pooled_key in content:
            vectors = super().forward(content)
            return vectors if vectors.ndim == 2 else vectors.mean(dim=1)
        if self.tokens_key in content:
            return super().forward(content)
        if content["text_ids"].ndim == 2:
            return self._in_buckets(super().forward, content)
        fields = content["text_ids"].shape[:2]  # n, F
        vectors = self._in_buckets(super().forward, _flat(content))
        return vectors.unflatten(0, fields).mean(dim=1)

    def pooled(self, content: Content) -> Tensor:
        """One vector per item before the projection, ``[n, D]``; of fields apart ``[n, F, D]``."""
        if self.pooled_key in content or content["text_ids"].ndim == 2:
            return super().pooled(content)
        return super().pooled(_flat(content)).unflatten(0, content["text_ids"].shape[:2])

    @property
    def by_length(self) -> bool:
        """Whether texts are encoded in buckets by length, where that saves tokens."""
        return self._by_length is True or (self._by_length == "auto" and self.ignores_padding())

    def _in_buckets(self, run: Callable[[Content], Tensor], content: Content) -> Tensor:
        """``run(content)``, of texts in buckets by length where no vector depends on its padding.

        Dropout draws for each bucket, as for a batch of its own.
        """
        mask = content["text_mask"]
        buckets = length_buckets(mask) if self._by_length and len(mask) else []
        if len(buckets) < 2 or not self.by_length:
            return run(content)
        vectors = torch.cat([run(_cut(content, rows, width)) for rows, width in buckets])
        return vectors[torch.cat([rows for rows, _ in buckets]).argsort()]

    @torch.no_grad()
    def ignores_padding(self) -> bool:
        """Whether texts of different lengths have the same vectors together and alone; tried
        once. Not so where a model mixes all places (FNet), or cuts its text into blocks."""
        if self._padding_ignored is None:
            run, training, content = super().forward, self.training, self.sample_content()
            self.eval()
            alone = torch.cat([run(text) for text in apart(content)])
            self._padding_ignored = alike(run(content), alone)
            self.train(training)
        return self._padding_ignored

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Last hidden states ``[n, T, D]`` and the mask of real tokens ``[n, T]``; of fields
        apart, ``[n, F T, D]``, one field after another."""
        stored = self.stored_tokens(content)
        if stored is not None:
            return stored
        if content["text_ids"].ndim == 3:
            fields = content["text_ids"].shape[:2]
            states, mask = self.tokens(_flat(content))
            states = states.unflatten(0, fields).flatten(1, 2)
            return states, None if mask is None else mask.unflatten(0, fields).flatten(1, 2)
        states, mask = self._states(self._run(content)), content["text_mask"]
        # A model that shortens or lengthens its text says nothing of which states are real.
        return states, mask if states.shape[1] == mask.shape[1] else None

    def _states(self, outputs: Any) -> Tensor:
        states = outputs.get("last_hidden_state")
        states = first_tensor(outputs, (3,)) if states is None else states
        if states is None:  # a model of whole texts (DPR)
            states = outputs["pooler_output"].unsqueeze(1)
        return states

    def own_pooling(self, content: Content) -> Tensor:
        """The model's own pooling layer, ``[n, D]``."""
        pooled = self._run(content).get("pooler_output")
        if pooled is None:
            raise ConfigError(f"pooling: {self.name} has no pooler; use cls or masked_mean.")
        return pooled

    def architecture(self) -> dict[str, Any]:
        """The model's config."""
        return {
            "name": self.name,
            "modality": "text",
            "source": "transformers",
            "config": plain_config(self.config),
            "pooler": has_pooler(self.backbone),
        }


def _flat(content: Content) -> Content:
    """The fields ``[n, F, T]`` as texts ``[n F, T]``."""
    return {name: content[name].flatten(0, 1) for name in ("text_ids", "text_mask")}


def _cut(content: Content, rows: Tensor, width: int) -> Content:
    """Of the texts ``rows`` the first ``width`` tokens, and what is stored of these."""
    return {k: value[rows, :width] for k, value in content.items() if k.startswith("text_")}


def apart(content: Content) -> list[Content]:
    """Texts ``[n, T]`` one by one, each without its padding."""
    rows = torch.arange(len(content["text_mask"]), device=content["text_mask"].device)
    lengths = content["text_mask"].sum(dim=1).tolist()
    return [_cut(content, *at) for at in zip(rows.split(1), lengths, strict=True)]


def _starts_with_class_token(tokenizer: Any) -> bool:
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return len(ids) > 1 and tokenizer.cls_token_id is not None and ids[0] == tokenizer.cls_token_id


def build_text(
    card: EncoderCard, settings: EncoderSettings, dataset: Any, config: Any
) -> TextEncoder:
    """Build a text encoder; its word table has one row per token of the tokenizer."""
    card.loads_weights(settings)
    tokenizer = find_tokenizer(card, settings, Path(dataset.folder))
    described = settings.architecture is not None
    if card.arguments and not described:
        config.vocab_size = len(tokenizer)
        config.pad_token_id = tokenizer.pad_token_id
    size = getattr(config, "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        raise ConfigError(
            f"tokenizer: {tokenizer.name_or_path or settings.tokenizer} has {len(tokenizer)} "
            f"tokens, {card.name} knows {size}; use the tokenizer that belongs to the model."
        )
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and 0 < limit < settings.max_text_length:  # XLNet: -1 is no limit
        raise ConfigError(
            f"max_text_length: {settings.max_text_length} is more than the {limit} tokens that "
            f"{card.name} can read."
        )
    model = make_model(card, settings, config)
    return TextEncoder(card, model, config, tokenizer, settings)
