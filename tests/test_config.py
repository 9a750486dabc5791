"""Settings: the property chain, strict keys, all errors at once."""

from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from recbole_morec import settings as schema
from recbole_morec.cli import _settings as read_flags
from recbole_morec.config import PROPERTIES, MoRecConfig, parse_value
from recbole_morec.errors import ConfigError
from recbole_morec.models.lookup import find_model, is_ours, our_models, stock_models
from recbole_morec.objectives import OBJECTIVES
from recbole_morec.user_encoders import USER_ENCODERS


def build(world, model="PixelNet", files=(), **overrides):
    return MoRecConfig(model, "colours", files, {"data_path": str(world.parent), **overrides})


def test_later_files_win_and_the_command_line_wins_over_all(world, tmp_path):
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("epochs: 3\nn_layers: 3\nseed: 3\n")
    second.write_text("n_layers: 4\nseed: 4\n")
    config = build(world, files=[first, second], seed=5)
    assert (config["epochs"], config["n_layers"], config["seed"]) == (3, 4, 5)


def test_no_precision_may_be_written_as_yaml_reads_it(world):
    assert parse_value("no") is False
    assert build(world, mixed_precision=parse_value("no"))["mixed_precision"] == "no"


def test_the_dataset_overrules_the_model_and_the_user_overrules_both(world):
    # PixelNet's own yaml says bpr; the dataset's yaml says in_batch.
    assert (
        yaml.safe_load((PROPERTIES / "model" / "PixelNet.yaml").read_text())["objective"] == "bpr"
    )
    assert build(world)["objective"] == "in_batch"
    assert build(world, objective="bpr")["objective"] == "bpr"


def test_a_dataset_may_set_what_holds_for_our_models_only(world, tmp_path):
    folder = tmp_path / "data" / "colours"
    folder.mkdir(parents=True)
    (folder / "colours.yaml").write_text("seed: 7\nmultimodal: {learning_rate: 5e-3, seed: 8}\n")
    ours = build(world, data_path=str(tmp_path / "data"))
    stock = build(world, "SASRec", data_path=str(tmp_path / "data"))
    assert (ours["learning_rate"], ours["seed"]) == (5e-3, 8)
    assert (stock["learning_rate"], stock["seed"]) == (1e-3, 7)


def test_image_and_text_stand_for_the_datasets_encoders(world):
    assert build(world)["item_encoder"] == "tiny_convnext"
    assert build(world, "MoRec")["item_encoder"] == "tiny_bert"
    both = build(world, item_encoder="image+text")
    assert both["item_encoder"] == ["tiny_convnext", "tiny_bert"]


def test_stock_models_keep_recboles_defaults(world):
    config = build(world, "SASRec")
    assert (config["hidden_size"], config["hidden_dropout_prob"]) == (64, 0.5)
    assert (config["train_batch_size"], config["learner"]) == (2048, "adam")
    assert config["train_neg_sample_args"]["distribution"] == "none"  # or SASRec would refuse


def test_protocol_fills_what_is_left_open(world):
    config = build(world, protocol="morec", MAX_ITEM_LIST_LENGTH=7)
    assert config["truncate_history"] == 10
    assert (config["min_user_inter"], config["history_mask"]) == (5, "truncated")
    assert build(world, protocol="recbole")["history_mask"] == "none"


def test_all_problems_are_reported_at_once(world):
    with pytest.raises(ConfigError) as caught:
        build(
            world,
            lerning_rate=1,
            epochs=-1,
            user_encoder="SASRek",
            metrics=["Recal"],
            pooling="max",
        )
    text = str(caught.value)
    assert 'lerning_rate: no such setting. Did you mean "learning_rate"?' in text
    assert "epochs=-1" in text
    assert 'Did you mean "SASRec"?' in text
    assert "no metric 'Recal'. Did you mean \"recall\"?" in text
    assert "pooling='max'" in text
    assert len(caught.value.problems) >= 5


def test_a_key_of_another_model_is_a_warning(world):
    config = build(world, shrink=0.3, load_col=None)
    assert any("shrink has no effect on PixelNet; ItemKNN" in w for w in config.warnings)
    assert any(w.startswith("load_col has no effect here") for w in config.warnings)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"valid_metric": "MRR@10"}, "valid_metric=MRR@10 is not among"),
        ({"eval_mode": "uni100"}, "belong to protocol=recbole"),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}, "only {'LS'"),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "RecBole refuses"),
        ({"topk": [0]}, "topk"),
        ({"item_tower": True}, "set tower_layers"),
        ({"user_encoder": "SASRec", "item_tower": True, "tower_layers": [12]}, "layer have 64"),
        ({"user_encoder": "DSSM", "item_tower": True, "tower_layers": [12]}, "layer have 64"),
        ({"user_encoder": "DSSM", "tower_layers": [64, 12]}, "states of 12, .*layer have 64"),
        ({"user_encoder": "UserID", "tower_layers": [12]}, "states of 12, .*layer have 64"),
    ],
)
def test_settings_that_contradict(world, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(world, **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"user_encoder": "UserID", "item_tower": True, "tower_layers": [12]},
        {"user_encoder": "DSSM", "item_tower": True, "tower_layers": [12, 64]},
        {"user_encoder": "SASRec", "tower_layers": [12]},  # no tower anywhere
    ],
)
def test_towers_of_equal_ends_fit(world, overrides):
    build(world, **overrides)


def test_recboles_spelling_of_sampled_evaluation(world):
    config = build(world, protocol="recbole", eval_args={"mode": "pop50"})
    assert config["eval_mode"] == "pop50"


def test_files_that_are_missing_or_broken(world, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\n")
    with pytest.raises(ConfigError) as caught:
        build(world, files=[tmp_path / "none.yaml", broken])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-4", 1e-4), ("2e-5", 2e-5), ("True", True), ("~", None), ("None", None),
        ("[5,10]", [5, 10]), ("{max_norm: 1.5}", {"max_norm": 1.5}), ("tanh", "tanh"),
        ("a=b", "a=b"), ("1/0", "1/0"), ("[1", "[1"),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml_and_never_run(text, value):
    assert parse_value(text) == value


def test_flags_in_every_spelling():
    flags = ["-m", "PixelNet", "--dataset=x", "--config_files", "a.yaml", "b.yaml", "--resume"]
    assert read_flags(flags) == {
        "model": "PixelNet", "dataset": "x", "config_files": ["a.yaml", "b.yaml"], "resume": True,
    }  # fmt: skip
    assert read_flags(["--config_files=a.yaml b.yaml"])["config_files"] == ["a.yaml", "b.yaml"]
    with pytest.raises(ConfigError, match="twice"):
        read_flags(["--seed=1", "--seed=2"])


def test_every_setting_has_a_default_and_a_type():
    chain = [PROPERTIES / "overall.yaml", PROPERTIES / "multimodal.yaml"]
    named = set().union(*(yaml.safe_load(path.read_text()) for path in chain))
    from_recbole = {"seed", "show_progress", "epochs", "train_batch_size", "learner"}
    from_recbole |= {"learning_rate", "weight_decay"}
    assert schema.setting_names() - named <= from_recbole
    assert named - schema.setting_names() <= {"train_neg_sample_args"}


def test_model_lookup():
    assert is_ours(find_model("pixelnet"))
    assert find_model("SASRec").__module__.startswith("recbole.")
    assert len(stock_models()) > 80
    for name, hint in (("PixelNett", "PixelNet"), ("LightGCM", "LightGCN")):
        with pytest.raises(ConfigError, match=f'Did you mean "{hint}"'):
            find_model(name)
    with pytest.raises(ConfigError, match="prefix"):
        find_model("stock:SASRec")


def test_names_that_we_share_with_recbole_are_listed():
    # Ours wins; recbole:NAME is the stock one. Extend this list knowingly.
    assert set(our_models()) & set(stock_models()) == {
        "DIN",
        "DSSM",
        "FM",
        "LightGCN",
        "TransRec",
    }


@pytest.mark.parametrize(
    ("settings", "key", "readers"),
    [
        ({"objective": "in_batch", "negatives": 3}, "negatives", "bce, bpr, gbce"),
        (
            {"objective": "in_batch", "negative_distribution": "popularity"},
            "negative_distribution",
            "bce, bpr, gbce",
        ),
        ({"objective": "bpr", "temperature": 0.5}, "temperature", "full_softmax, in_batch"),
        ({"objective": "bpr", "popularity_correction": 0.0}, "popularity_correction", "in_batch"),
        ({"user_encoder": "UserID", "k_interests": 2}, "k_interests", "LightSANs reads it"),
        ({"user_encoder": "SASRec", "tower_layers": [8]}, "tower_layers", "DSSM, UserID read it"),
        ({"item_encoder": "id", "train_layers": "none"}, "train_layers", "image, text read it"),
        ({"item_encoder": "id", "pooling": "cls"}, "pooling", "image, text read it"),
        ({"item_encoder": "id", "codes": "c.npy"}, "codes", "codes reads it"),
        ({"item_encoder": "id", "features": "f.npy"}, "features", "features reads it"),
        ({"item_encoder": "tiny_vit", "text_fields_as": "averaged"}, "text_fields_as", "text"),
        ({"item_encoder": "tiny_vit", "fusion": "gated"}, "fusion", "fusion reads it"),
    ],
)
def test_a_setting_that_no_chosen_part_reads_is_warned_of_once(settings, key, readers):
    warnings = MoRecConfig("PixelNet", "x", overrides=settings).warnings
    assert len([w for w in warnings if w.startswith(f"{key} has no effect with")]) == 1
    assert any(readers in w for w in warnings)


def test_no_warning_of_a_setting_that_is_read_or_as_it_is_by_default():
    read = {"tower_layers": [64], "item_tower": True, "objective": "bce", "negatives": 2}
    assert MoRecConfig("MF", "x", overrides=read).warnings == []
    by_default = {"objective": "in_batch", "negatives": None, "k_interests": 3}
    assert MoRecConfig("PixelNet", "x", overrides=by_default).warnings == []


class _Recorded(dict):
    """Settings that remember which were asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize("registry", [USER_ENCODERS, OBJECTIVES], ids=["user encoder", "objective"])
def test_parts_read_the_settings_that_they_declare(registry):
    popular = {"negative_distribution": "popularity"}  # whose correction has an exponent
    values = MoRecConfig("PixelNet", "x", overrides=popular).final_config_dict
    of_batches = {"negatives_avoid", "negative_distribution", "negative_exponent", "mask_ratio"}
    of_batches |= {"catalogue_per_step"}
    dataset = SimpleNamespace(user_num=3, item_num=2000, candidates=np.arange(2000) > 0)
    for name in registry.names():
        config = _Recorded(values)
        part = registry.get(name)
        part.from_config(config, dataset)
        asked = config.asked - {"embedding_size", "MAX_ITEM_LIST_LENGTH"}
        assert asked <= part.reads, name
        assert part.reads - asked <= of_batches, name


@pytest.mark.parametrize("key", ["dilations", "din_layers"])
def test_a_list_without_layers_is_refused(key):
    with pytest.raises(ConfigError, match=f"{key}=\\[\\]: list should have at least 1 item"):
        MoRecConfig("PixelNet", "x", overrides={key: []})


def test_several_models_read_a_setting():
    (warning,) = MoRecConfig("BPR", "x", overrides={"n_heads": 2}).warnings
    assert warning.endswith(" read it.")
    assert "reads it" not in warning


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("PixelNet", {"n_heads": 3}, "embedding_size=64 cannot be split over n_heads=3"),
        ("PixelNet", {"n_heads": 3, "user_encoder": "GRU4Rec"}, None),
        ("DIN", {"n_heads": 3}, None),
        ("ODMT", {"item_transformer_heads": 3}, "split over item_transformer_heads=3"),
        ("ODMT", {"item_transformer_heads": 3, "item_transformer": False}, None),
        (
            "MoRec",
            {"item_encoder": "image+text", "fusion": "co_attention", "fusion_heads": 5},
            "fusion_heads: 5 heads do not divide vectors of 64; choose a number that does",
        ),
        ("MoRec", {"item_encoder": "image+text", "fusion": "sum", "fusion_heads": 5}, None),
        ("MoRec", {"fusion": "co_attention", "fusion_heads": 5}, None),
        ("ODMT", {"fusion": "co_attention", "fusion_heads": 5}, None),
        (
            "PixelNet",
            {"item_encoder": ["tiny_vit", "id", "tiny_convnext"]},
            "'tiny_vit' and 'tiny_convnext' both read image; a fusion has one encoder per modality",
        ),
        ("PixelNet", {"item_encoder": ["id", "id"]}, "both read id"),
        (
            "PixelNet",
            {"item_encoder": "tiny_vit", "train_layers": "last_9"},
            "tiny_vit has 6 layers .*; use last_1 to last_6",
        ),
        ("PixelNet", {"item_encoder": "tiny_vit", "train_layers": "last_6"}, None),
        (
            "MoRec",
            {"item_encoder": "image+text", "train_layers": {"text": "last_3", "image": "last_4"}},
            "tiny_bert has 2 layers .*; use last_1 to last_2",
        ),
        ("PixelNet", {"train_layers": "lats_2"}, "'lats_2' is not known"),
        (
            "SASRec",
            {"item_encoder": "tiny_convnext", "train_layers": "stages:[5]"},
            "tiny_convnext has stages 1 to 4",
        ),
        ("VBPR", {"embedding_size": 63}, "embedding_size=63: VBPR gives half"),
        ("VBPR", {"objective": "item_head"}, "reads no item vector"),
    ],
)
def test_sizes_that_do_not_fit_are_told_without_data(model, settings, message):
    """There is no dataset of that name."""
    if message is None:
        MoRecConfig(model, "x", overrides=settings)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        MoRecConfig(model, "x", overrides=settings)
    assert len(caught.value.problems) == 1


def test_sizes_that_do_not_fit_are_told_together():
    settings = {
        "n_heads": 3, "item_encoder": ["tiny_vit", "tiny_convnext"], "fusion": "merged_attention",
        "fusion_heads": 5, "train_layers": "last_5", "truncate_history": 2,
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        MoRecConfig("PixelNet", "x", overrides=settings)
    assert len(caught.value.problems) == 5


def test_counting_blocks_takes_no_weights_and_no_memory(monkeypatch):
    """Blocks are counted on the meta device, of an encoder whose weights nobody has."""

    def refuse(*args, **options):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("recbole_morec.item_encoders.timm_models._find_weights", refuse)
    settings = {"item_encoder": "vit_huge_patch14_224", "train_layers": "last_40"}
    with pytest.raises(ConfigError, match="has 32 layers"):
        MoRecConfig("PixelNet", "x", overrides=settings)
