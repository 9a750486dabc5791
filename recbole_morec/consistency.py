"""Settings that are right one by one and do not fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole.evaluator.register import metric_information, metric_types

from recbole_morec.errors import ConfigError, suggest
from recbole_morec.settings import ItemEncoderSettings
from recbole_morec.training.micro_batches import why_not_exact

if TYPE_CHECKING:
    from recbole_morec.user_encoders import UserEncoder

IMAGE_TRANSFORMS = ("native", "paper")
# RecBole's, without its stub `user_defined`.
_ROW_TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq")


def reported(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """What an evaluation reports, in lower case: ``recall@10``, ``gauc``."""
    names = []
    for metric in (str(metric).lower() for metric in metrics):
        # Metrics on mean ranks (GAUC) and on raw scores have no list length.
        whole = {"rec.meanrank", "rec.score"} & {*metric_information.get(metric, [])}
        names += [metric] if whole else [f"{metric}@{k}" for k in topk]
    return names


class Consistency:
    """Problems of the settings of a run that lie in their combination.

    Args:
        config: which model and dataset it is of.
        values: the resolved settings.
        user: those that the user gave.
        defaults: those of RecBole, the model and the dataset.
        sound: each setting alone is of its type, so that they can be reckoned with.

    Attributes:
        warnings: sentences on settings without effect, once :meth:`problems` was called.
    """

    def __init__(
        self,
        config: Any,
        values: Mapping[str, Any],
        user: Mapping[str, Any],
        defaults: Mapping[str, Any],
        sound: bool,
    ):
        self.model, self.model_class, self.dataset = (
            config.model,
            config.model_class,
            config.dataset,
        )
        self.multimodal, self.reads_content = config.multimodal, config.reads_content
        self.values, self.user, self.defaults = values, user, defaults
        self.sound = sound
        self.warnings: list[str] = []

    def problems(self) -> list[str]:
        """One sentence per problem."""
        values, problems = self.values, []
        fields = [values[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")]
        named = [field for field in fields if field is not None]
        if fields[0] is None or fields[1] is None or len(set(named)) < len(named):
            problems.append(
                f"USER_ID_FIELD={fields[0]}, ITEM_ID_FIELD={fields[1]}, TIME_FIELD={fields[2]}: "
                "user and item need a field each, and no field serves twice."
            )
        if 0 < (values["truncate_history"] or 0) < 3:
            problems.append(
                f"truncate_history={values['truncate_history']}: a history needs 3 interactions "
                "to be trained on, validated and tested; use 0 (all) or at least 3."
            )
        for metric in values["metrics"]:
            if str(metric).lower() not in metric_types:
                problems.append(
                    f"metrics: there is no metric {metric!r}.{suggest(str(metric), metric_types)}"
                )
        if str(values["valid_metric"]).lower() not in reported(values["metrics"], values["topk"]):
            problems.append(
                f"valid_metric={values['valid_metric']} is not among metrics={values['metrics']} "
                f"at topk={values['topk']}; add it or choose one of them."
            )
        if values["eval_mode"] != "full" and values["protocol"] != "recbole":
            problems.append(
                f"eval_mode={values['eval_mode']}: sampled candidates belong to protocol=recbole; "
                f"protocol={values['protocol']} ranks all items."
            )
        if self.multimodal:
            self.warnings += [
                f"{key} has no effect on {self.model}, which has its own."
                for key in ("user_encoder", "objective")
                if key in self.user and key not in self.model_class.chooses
            ]
            problems += self._unfit_parts()
            problems += self._cut_batches()
            listed = values["item_encoder"]
            alone = {"id", "features", "codes"}
            blind = alone & {listed} if isinstance(listed, str) else {"id"} & {*listed}
            if values["mask_vector"] == "encoded" and blind:
                problems.append(
                    f"mask_vector=encoded: item_encoder={listed} reads no content that could stand "
                    "for a mask; use mask_vector=learned."
                )
        if self.reads_content:
            problems += [
                f"fit_memory={values['fit_memory']} chooses {key}; give only one of the two."
                for key in ("encode_chunk", "micro_batch")
                if values["fit_memory"] and values.get(key)
            ]
            problems += self._unfit_encoders() + _unknown_parts(values["load"])
        if self.multimodal and self.sound:
            problems += self.model_class.unfit_settings(values) + self._unfit_heads()
        if self.reads_content and not problems:
            self.warnings += self._settings_without_effect()
        if self.reads_content and not self.multimodal:
            problems += self._stock_content()
        if not self.multimodal:
            problems += self._unknown_transform(values["transform"])
        return problems

    def _unknown_transform(self, transform: Any) -> list[str]:
        """Problems of a change of the rows of a RecBole model."""
        if transform is None or transform in _ROW_TRANSFORMS:
            return []
        images = f" (images: {', '.join(IMAGE_TRANSFORMS)})" if self.reads_content else ""
        needs = "native and paper are for images, which an item_encoder reads. "
        return [
            f"transform={transform}: {self.model} is RecBole's, which knows "
            f"{', '.join(_ROW_TRANSFORMS)}{images}. "
            + (needs if transform in IMAGE_TRANSFORMS else "")
            + "Leave it out for the model's own."
        ]

    def _settings_without_effect(self) -> list[str]:
        """A sentence for each setting of the user's that no chosen part reads."""
        from recbole_morec.item_encoders.registry import find_card
        from recbole_morec.item_encoders.settings import SETTINGS_OF
        from recbole_morec.objectives import OBJECTIVES
        from recbole_morec.user_encoders import USER_ENCODERS
        from recbole_morec.user_encoders.tower import TOWER_SETTINGS

        values = self.values
        listed = as_list(values["item_encoder"])
        folder = Path(values["data_path"]) / self.dataset
        modalities = {find_card(name, folder).modality for name in listed}
        kinds = modalities | ({"fusion"} if len(listed) > 1 else set())
        encoder = f"item_encoder={values['item_encoder']}"
        groups = [(encoder, SETTINGS_OF, kinds)] if kinds <= SETTINGS_OF.keys() else []
        if self.multimodal:
            for registry in (USER_ENCODERS, OBJECTIVES):
                if registry.key in self.model_class.chooses:
                    reads = {name: registry.get(name).reads for name in registry.names()}
                    known = {name: keys for name, keys in reads.items() if keys is not None}
                    name = values[registry.key]
                    if name in known:
                        groups.append((f"{registry.key}={name}", known, {name}))
        shared = TOWER_SETTINGS if values.get("item_tower") else frozenset()
        found = []
        for who, readers, chosen in groups:
            read = shared.union(*(readers[name] for name in chosen))
            for key in sorted(frozenset().union(*readers.values()) - read):
                if key in self.user and self.user[key] != self.defaults.get(key):
                    by = {name for name, keys in readers.items() if key in keys}
                    found.append(f"{key} has no effect with {who}; {read_by(by)}.")
        return found

    def _unfit_encoders(self) -> list[str]:
        """Problems of item encoders: names, modalities, and what each is told."""
        from recbole_morec.item_encoders.fusion import two_of_a_kind
        from recbole_morec.item_encoders.outline import known_here, outline_problems
        from recbole_morec.item_encoders.registry import find_card
        from recbole_morec.item_encoders.transformers_models import modality_of

        problems: list[str] = []
        cards = []
        for name in as_list(self.values["item_encoder"]):
            try:
                card = find_card(name, Path(self.values["data_path"]) / self.dataset)
                if card.modality is None and known_here(card):
                    card = modality_of(card)
            except ConfigError as error:
                problems += error.problems
            else:
                cards.append(card)
        cards = [card for card in cards if card.modality is not None]
        first: dict[str, str] = {}
        for card in cards:
            if card.modality in first:
                problems.append(two_of_a_kind(first[card.modality], card.name, card.modality))
            first.setdefault(card.modality, card.name)
        if self.sound:
            # `transform` and others of RecBole's own mean something else.
            mine = self.multimodal or ItemEncoderSettings.model_fields
            told = {k: v for k, v in self.values.items() if mine is True or k in mine}
            found = [problem for card in cards for problem in outline_problems(told, card)]
            problems += dict.fromkeys(found)  # what concerns two encoders is told once
        return problems

    def _unfit_heads(self) -> list[str]:
        """Problems of attention heads, of the user encoder and of a fusion."""
        from recbole_morec.item_encoders.joins import heads_problems as fusion_heads_problems
        from recbole_morec.user_encoders import USER_ENCODERS
        from recbole_morec.user_encoders.transformer import heads_problems

        values, problems = self.values, []
        size, name = values["embedding_size"], values["user_encoder"]
        chosen = "user_encoder" in self.model_class.chooses and USER_ENCODERS.problem(name) is None
        if chosen and "n_heads" in (USER_ENCODERS.get(name).reads or ()):
            problems += heads_problems(size, values["n_heads"])
        hidden = values["projection_layers"]
        hidden = list(hidden.values()) if isinstance(hidden, dict) else [hidden]
        several = len(as_list(values["item_encoder"])) > 1 and self.model_class.fuses
        if several and "none" not in hidden:  # else the encoders' own widths count
            problems += fusion_heads_problems(values["fusion"], size, values["fusion_heads"])
        return problems

    def _unfit_parts(self) -> list[str]:
        """Problems of user encoder and objective."""
        from recbole_morec.objectives import OBJECTIVES
        from recbole_morec.user_encoders import USER_ENCODERS

        values = self.values
        named = (USER_ENCODERS, values["user_encoder"]), (OBJECTIVES, values["objective"])
        unknown = [p for registry, name in named if (p := registry.problem(name))]
        if unknown:
            return unknown
        user_encoder, objective = (registry.get(name) for registry, name in named)
        problems = []
        needed = {"user_encoder", "objective"} <= {*self.model_class.chooses}
        if needed and not user_encoder.reads_history and not objective.reads_vectors:
            problems.append(
                f"objective={values['objective']} with user_encoder={values['user_encoder']}: "
                "neither reads an item vector, so that none would be learned; choose another of "
                "either."
            )
        problems += self._unfit_towers(user_encoder)
        if self.model_class.encodes == "catalogue":
            problems += self._whole_catalogue(f"model={self.model}", "")
        elif "objective" in self.model_class.chooses and objective.encodes == "catalogue":
            problems += self._whole_catalogue(
                f"objective={values['objective']}",
                "objective=in_batch or sampled_softmax, ",
            )
        return problems

    def _cut_batches(self) -> list[str]:
        """Problems of batches in parts, which must not change the loss."""
        values, problems = self.values, []
        if values["micro_batch"] and values["accumulation_steps"] != 1:
            problems.append(
                f"micro_batch={values['micro_batch']} and accumulation_steps="
                f"{values['accumulation_steps']} both cut the batch up; give only one of the two."
            )
        reason = why_not_exact(values, self.model_class)
        if values["micro_batch"] and reason:
            problems.append(
                f"micro_batch={values['micro_batch']}: {reason}, and micro-batches would change "
                "the loss. Use encode_chunk, which takes less memory for the same loss; "
                "accumulation_steps cuts the batch up all the same."
            )
        follows = values["item_tower"] and values["tower_batch_norm"]
        for key in ("encode_chunk", "share_encoding"):
            if values[key] and follows:
                problems.append(
                    f"{key}={values[key]}: the item tower takes its BatchNorm statistics over the "
                    f"batch's items, and parts of it would change them. Leave {key} at its "
                    "default, or use tower_batch_norm=False."
                )
        if values["share_encoding"] and values["encode"] == "every_slot":
            problems.append(
                "share_encoding=True: encode=every_slot encodes an item as often as it occurs; "
                "leave one of the two at its default."
            )
        return problems

    def _unfit_towers(self, chosen: type[UserEncoder]) -> list[str]:
        """Problems of sizes: item vectors that no one can read, states that fit no item vector."""
        from recbole_morec.user_encoders.tower import tower_size

        values = self.values
        size, layers = values["embedding_size"], values["tower_layers"]
        if not isinstance(layers, list):
            return []  # a problem of its own, which is told already
        items = tower_size(values, size) if values["item_tower"] else size
        chooses = "user_encoder" in self.model_class.chooses
        who = f"user_encoder={values['user_encoder']}" if chooses else f"model={self.model}"
        if values["item_tower"] and not layers:
            return ["item_tower=True: the tower has no layers; set tower_layers."]
        if items != size and not (chooses and not chosen.reads_history):
            return [
                f"tower_layers={layers} with item_tower=True: items get vectors of {items}, but "
                f"{who} reads vectors of embedding_size={size}; let the last layer have {size}."
            ]
        if chooses and chosen.state_size(values) != items:
            return [
                f"tower_layers={layers}: {who} gives states of {chosen.state_size(values)}, which "
                f"do not compare with item vectors of {items}; let the last layer have {items}."
            ]
        return []

    def _whole_catalogue(self, who: str, instead: str) -> list[str]:
        """Problems of a model or loss that needs all item vectors in each step."""
        values, problems = self.values, []
        if values["encode"] == "every_slot":
            problems.append(
                f"encode=every_slot: {who} encodes every candidate once in each "
                "step, not the slots of the rows; use encode=distinct."
            )
        if _encodes_content(values) and not values["catalogue_per_step"]:
            problems.append(
                f"{who} needs the vectors of all items in each step, and "
                f"item_encoder={values['item_encoder']} trains. Use {instead}train_layers=none, "
                "item_encoder=id or features, or set catalogue_per_step to the number of items of "
                "a small catalogue."
            )
        return problems

    def _stock_content(self) -> list[str]:
        """Problems of an item encoder in a model of RecBole's."""
        from recbole_morec.models.stock_tables import ENCODER_NAMES, whole_table
        from recbole_morec.transfer.parts import ITEM_PARTS, PARTS

        values, problems = self.values, []
        reason = whole_table(self.model, values)
        if reason and _encodes_content(values) and not values["catalogue_per_step"]:
            problems.append(
                f"catalogue_per_step=0: {reason.what}, and item_encoder={values['item_encoder']} "
                f"trains. Use {reason.instead}train_layers=none, item_encoder=id or features, or "
                "set catalogue_per_step to the number of items of a small catalogue."
            )
        load = values["load"] or {}
        if load and self.model in ENCODER_NAMES:
            problems.append(
                f"load: {self.model} calls a part of its own item_encoder, so that no item encoder "
                "can be loaded into it from another run."
            )
        elif isinstance(load, dict) and set(load) & set(PARTS) - set(ITEM_PARTS):
            problems.append(
                f"load: {self.model} is RecBole's and takes the parts {' and '.join(ITEM_PARTS)} "
                "only."
            )
        return problems


def read_by(names: Iterable[str], shown: int = 4) -> str:
    """Say that these read a setting, or the first few of them."""
    listed = sorted(names)[:shown]
    return f"{', '.join(listed)} {'reads' if len(listed) == 1 else 'read'} it"


def _unknown_parts(load: Any) -> list[str]:
    """Problems of the parts that ``load`` names."""
    from recbole_morec.transfer.parts import PARTS

    named = load if isinstance(load, dict) else {}
    return [
        f"load: there is no part {part!r}.{suggest(str(part), PARTS)} Parts: {', '.join(PARTS)}."
        for part in named
        if part not in PARTS
    ]


def _encodes_content(values: Mapping[str, Any]) -> bool:
    """Whether an item encoder has layers that train, so that items are encoded anew each step."""
    chosen = values["train_layers"]
    chosen = list(chosen.values()) if isinstance(chosen, dict) else [chosen]
    stored = set(as_list(values["item_encoder"])) <= {"id", "features", "codes"}
    return not stored and chosen != ["none"] * len(chosen)


def as_list(value: Any) -> list[Any]:
    """The list that a setting is, or the list of its only value."""
    return list(value) if isinstance(value, list | tuple) else [value]
