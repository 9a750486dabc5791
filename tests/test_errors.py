"""Bad input gets one clear message, on the command line, without a traceback."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import write_world
from PIL import Image

from recbole_morec.cli import main

SHORT_LIST = ["--topk=[3]", "--valid_metric=NDCG@3"]


@pytest.fixture
def copy(tmp_path):
    """A world of its own that a test may damage."""
    return write_world(tmp_path / "data" / "colours", users=20, items_per_colour=9)


@pytest.fixture
def command(tmp_path, capsys):
    """Run the command line on ``tmp_path/data``; returns exit status and what stderr said."""

    def run(*flags, data=tmp_path / "data", model="PixelNet"):
        status = main(
            [
                f"--model={model}", "--dataset=colours", f"--data_path={data}", "--epochs=1",
                "--show_progress=False", "--use_gpu=False", "--log_tensorboard=False",
                f"--checkpoint_dir={tmp_path / 'saved'}",
                *([] if any("topk" in f for f in flags) else SHORT_LIST), *flags,
            ]
        )  # fmt: skip
        return status, capsys.readouterr().err

    return run


def replace(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def failed(outcome, *words):
    status, message = outcome
    assert status == 2
    assert message.count("error:") == 1
    assert "Traceback" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--item_encoder=tiny_convnex"], ["tiny_convnext"]),
        (
            ["--lerning_rate=1", "--item_encoder=tiny_vt"],
            ["learning_rate", "tiny_vit", "2 problems"],
        ),
        (["--item_encoder=/no/such/folder"], ["/no/such/folder"]),
        (["--text_fields=[titel]", "--item_encoder=text"], ["titel", "title"]),
        (["--image_field=covr"], ["covr", "cover"]),
        (["--n_heads=3"], ["embedding_size=64", "n_heads=3"]),
        (["--protocol=pixelrek", "--worker=-1"], ["pixelrek", "2 problems"]),
        (["--item_encoder={image: x}"], ["item_encoder", "list of names"]),
        (["--USER_ID_FIELD=item_id"], ["USER_ID_FIELD=item_id", "no field serves twice"]),
        (["--val_interval={rating: 3}"], ["val_interval", "convert"]),
        (["--eval_args={mode: {valid: full, test: uni100}}"], ["eval_args.mode"]),
        (["--eval_args={group_by: none}"], ["eval_args.group_by"]),
        (["--eval_args=full"], ["eval_args"]),
        (["--train_neg_sample_args={sample_nm: 5}"], ["sample_nm", "sample_num"]),
        (["--clip_grad_norm={norm: 1}"], ["clip_grad_norm", "max_norm"]),
        (["--truncate_history=2"], ["truncate_history=2"]),
        (["--catalogue=content", "--ITEM_ID_FIELD=sku"], ["sku"]),
        (["--item_encoder=a/b/c"], ["'a/b/c'", "organisation/model"]),
        (["--item_encoder=bert-base-uncased"], ["transformers:bert-base-uncased"]),
        (["--item_encoder=tiny_vit#text"], ["tiny_vit reads image"]),
        (["--item_encoder=text", "--tokenizer=nope"], ["tokenizer", "nope", "dataset's folder"]),
    ],
)
def test_settings(copy, command, flags, words):
    failed(command(*flags), *words)


def test_senseless_settings_of_a_stock_model(copy, command):
    failed(command("--hidden_size=63", model="SASRec"), "SASRec", "heads")


def test_a_dataset_is_not_a_path(copy, tmp_path, capsys):
    assert main(["--model=Pop", f"--dataset={copy}"]) == 2
    assert f"--data_path={copy.parent} --dataset=colours" in capsys.readouterr().err
    assert not list(copy.glob("Pop-*"))


def test_an_error_in_a_loader_worker_is_the_error(copy, command):
    (copy / "images" / "red3.png").write_bytes(b"hello")
    status, message = command("--image_cache_gb=0", "--worker=1")
    failed((status, message), "red3", "bad_images")
    assert "worker process" not in message


def test_a_rerun_that_fails_costs_nothing(copy, command, tmp_path):
    assert command()[0] == 0
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    before = (folder / "results.json").read_bytes()
    (copy / "images" / "red3.png").unlink()
    failed(command(), "red3")
    assert (folder / "results.json").read_bytes() == before
    assert (folder / "best" / "state.json").exists()


def test_resume_does_not_replace_a_run_that_it_cannot_go_on_from(copy, command, tmp_path):
    assert command("--item_encoder=id")[0] == 0
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    shutil.rmtree(folder / "last")
    failed(command("--item_encoder=id", "--resume"), "without --resume")
    assert (folder / "results.json").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "- a"),
        ("best/state.json", "{}"),
        ("encoder.json", "{"),
        ("best/model.safetensors", "x"),
    ],
)
def test_a_damaged_run_folder(copy, command, tmp_path, capsys, file, text):
    assert command("--item_encoder=id")[0] == 0
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    (folder / file).write_text(text)
    failed((main(["evaluate", str(folder)]), capsys.readouterr().err), str(folder))
    (folder / "results.json").write_text("{}")
    failed((main(["compare", str(folder)]), capsys.readouterr().err), "results.json")


def test_evaluate_needs_no_validation_metric(copy, command, tmp_path, capsys):
    assert command("--item_encoder=id")[0] == 0
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    assert main(["evaluate", str(folder), "--topk=[3]", "--metrics=[Recall]"]) == 0
    assert "recall@3" in capsys.readouterr().out


def test_evaluate_takes_no_settings_of_training(copy, command, tmp_path, capsys):
    assert command("--item_encoder=id")[0] == 0
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    status = main(["evaluate", str(folder), "--seed=5", "--item_encoder=tiny_vit"])
    failed((status, capsys.readouterr().err), "seed", "item_encoder")
    assert main(["evaluate", str(folder), "--protocol=ninerec", "--MAX_ITEM_LIST_LENGTH=5"]) == 2


def test_no_user_for_validation(copy, command):
    rows = [f"v{u}\tred{(u + i) % 9}\t{i}" for u in range(9) for i in range(3)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (copy / "colours.inter").write_text("\n".join([header, *rows]) + "\n")
    failed(command("--protocol=recbole", model="Pop"), "valid target", "at least 4")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("recbole-morec ")


def test_unknown_model_dataset_and_verb(copy, command, capsys):
    failed(command(model="PixlNet"), "PixelNet")
    shutil.rmtree(copy)
    write_world(copy.with_name("colors"), users=5)
    failed(command(), "colours", 'Did you mean "colors"', "convert")
    assert main(["evalute", "x"]) == 2
    assert 'Did you mean "evaluate"' in capsys.readouterr().err


def test_missing_cover(copy, command):
    (copy / "images" / "red3.png").unlink()
    failed(command(), "red3", "images/red3.png")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_broken_cover(copy, command, damage):
    cover = copy / "images" / "red3.png"
    Image.effect_noise((64, 64), 50).save(cover)
    whole = cover.read_bytes()
    cover.write_bytes(
        {"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage]
    )
    failed(command(), "red3", "bad_images")
    status, log = command("--bad_images=blank")
    assert status == 0
    assert "red3" in log  # used, counted and named


def test_item_without_content(copy, command):
    content = copy / "colours.content"
    lines = content.read_text().splitlines()
    content.write_text("\n".join(line for line in lines if not line.startswith("blue2\t")) + "\n")
    failed(command(), "blue2", "missing_content")
    status, log = command("--missing_content=blank")
    assert status == 0
    assert "blue2" in log


@pytest.mark.parametrize("text", ["", "word " * 10_000, "a\\tb\\nc", "NaN", '"quoted'])
def test_odd_titles_lose_nothing(copy, command, text):
    replace(copy / "colours.content", "a red thing number 3", text)
    status, log = command(model="MoRec")
    assert status == 0, log
    if len(text) > 1000:
        assert "1 cut at 30 tokens" in log


def test_texts_that_are_all_empty(copy, command):
    content = copy / "colours.content"
    header, *rows = content.read_text().splitlines()
    empty = ["\t".join([row.split("\t")[0], "", row.split("\t")[2]]) for row in rows]
    content.write_text("\n".join([header, *empty]) + "\n")
    failed(command(model="MoRec"), "colours.content", "title", "empty")


@pytest.mark.parametrize("name", ["a.npy", "a.parquet", "a.safetensors"])
def test_damaged_features(copy, command, name):
    (copy / name).write_bytes(b"nonsense")
    (copy / "a.tokens.txt").write_text("red0\n")
    failed(command("--item_encoder=features", f"--features={name}"), name, "cannot be read")


def test_features_are_never_unpickled(copy, command):
    np.save(copy / "a.npy", np.array([{"red0": 1}], dtype=object), allow_pickle=True)
    (copy / "a.tokens.txt").write_text("red0\n")
    failed(command("--item_encoder=features", "--features=a.npy"), "a.npy", "type object")


def test_no_content_file(copy, command):
    (copy / "colours.content").unlink()
    failed(command(), ".content", "item_encoder")
    assert command("--item_encoder=id")[0] == 0


def test_short_users_are_counted(copy, command):
    with (copy / "colours.inter").open("a") as file:
        file.write("shorty\tred1\t1600000000\n")
    status, log = command()
    assert status == 0
    assert "1 train without being evaluated" in log
    status, log = command("--protocol=ninerec", "--MAX_ITEM_LIST_LENGTH=5")
    assert "1 users are left out" in log


def test_no_user_is_long_enough(copy, command):
    failed(command("--min_user_inter=100"), "colours.inter", "100 interactions")


def test_duplicate_rows_are_counted(copy, command, capsys):
    lines = (copy / "colours.inter").read_text().splitlines()
    (copy / "colours.inter").write_text("\n".join([*lines, lines[1]]) + "\n")
    main(["--model=Pop", "--dataset=colours", f"--data_path={copy.parent}", "--topk=[3]",
          "--valid_metric=NDCG@3", f"--checkpoint_dir={copy.parent / 'saved'}",
          "--log_tensorboard=False", "--show_progress=False"])  # fmt: skip
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if "repeated user-item pairs" in line)
    assert "1" in row


def test_no_timestamp_column(copy, command):
    replace(copy / "colours.inter", "timestamp:float", "rating:float")
    failed(command(), "timestamp", "colours.inter", "TIME_FIELD=~")
    assert command("--TIME_FIELD=~", "--item_encoder=id")[0] == 0


def test_unwritable_run_folder(copy, command, tmp_path):
    (tmp_path / "saved").write_text("a file stands where the folder should be")
    failed(command(), str(tmp_path / "saved"), "--checkpoint_dir")


def test_evaluate_what_is_no_run(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert main(["compare", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit(copy, command, tmp_path, capsys):
    assert command("--item_encoder=id")[0] == 0
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    write_world(tmp_path / "data" / "larger", items_per_colour=12)
    status = main(["evaluate", str(folder), "--dataset=larger", "--topk=[3]"])
    assert status == 2
    message = capsys.readouterr().err
    assert "does not fit" in message
    assert "item_encoder" in message


def test_a_model_of_ids_does_not_move_to_another_numbering(copy, command, tmp_path, capsys):
    assert command("--item_encoder=id")[0] == 0
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    lines = (copy / "colours.inter").read_text().splitlines()
    (copy / "colours.inter").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    assert main(["evaluate", str(folder)]) == 2
    assert "numbers users and items otherwise" in capsys.readouterr().err


def test_nothing_to_train_on(copy, command):
    rows = [f"v{u}\tred{i}\t{i}" for u in range(9) for i in range(3)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (copy / "colours.inter").write_text("\n".join([header, *rows]) + "\n")
    failed(command("--item_encoder=id", "--topk=[1]", "--valid_metric=NDCG@1"), "training row")


@pytest.mark.parametrize("metric", ["NDCG", "NDCG@7"])
def test_validation_metric_that_is_not_reported(copy, command, metric):
    status = main(["--model=Pop", "--dataset=colours", f"--valid_metric={metric}"])
    assert status == 2


def test_diverging_training(copy, command):
    flags = ["--item_encoder=id", "--learner=sgd", "--learning_rate=1e30"]
    failed(command(*flags, "--train_batch_size=4"), "learning_rate")


def test_a_reader_that_has_read_enough_ends_the_output_quietly():
    code = (
        "import os, sys; read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "from recbole_morec.cli import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_lists_what_can_be_typed(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("PixelNet", "MoRec", "SASRec", "LightGCN", "tiny_convnext", "in_batch", "convert"):
        assert word in text


def test_half_precision_without_a_gpu(copy, command):
    failed(command("--mixed_precision=fp16"), "mixed_precision=bf16")
