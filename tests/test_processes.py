"""Two gloo processes on a CPU give the numbers of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_world
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).with_name("gradient_runs.py")
FLAGS = [
    "--dataset=colours", "--use_gpu=False", "--topk=[1,5]",
    "--valid_metric=NDCG@5", "--hidden_dropout_prob=0", "--attn_dropout_prob=0",
    "--show_progress=False", "--log_tensorboard=False", "--log_interval=1",
    "--embedding_size=16",
]  # fmt: skip


def launch(processes, world, folder, *flags):
    flags = [*FLAGS, f"--data_path={world.parent}", f"--checkpoint_dir={folder}", *flags]
    start(processes, ROOT / "run_recbole_morec.py", *flags)
    return found(folder)


def start(processes, script, *arguments):
    command = [sys.executable, str(script), *arguments]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        command[1:1] = [*torchrun, "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FutureWarning" not in done.stderr


def found(folder):
    """Results, losses and weights of the only run in a folder."""
    (run,) = (folder / "colours").iterdir()
    losses = [
        record["loss"]
        for line in (run / "metrics.jsonl").open()
        if (record := json.loads(line))["kind"] == "step"
    ]
    return (
        json.loads((run / "results.json").read_text()),
        losses,
        load_file(run / "last" / "model.safetensors"),
    )


ODMT = ["--model=ODMT", "--item_encoder=image+text", "--max_text_length=8"]


@pytest.mark.parametrize(
    "model",
    [["--model=PixelNet", "--objective=in_batch"], ["--model=PixelNet", "--objective=bpr"], ODMT],
    ids=["in_batch", "bpr", "ODMT"],
)
def test_two_processes_equal_one(tmp_path, model):
    # 61 rows in batches of 15: shares differ in size, and the last batch leaves a process empty.
    world = write_world(tmp_path / "data" / "colours", users=61)
    flags = [*model, "--learner=sgd", "--learning_rate=0.1"]
    flags += ["--epochs=2", "--train_batch_size=15"]
    one = launch(1, world, tmp_path / "one", *flags)
    two = launch(2, world, tmp_path / "two", *flags)
    assert two[0]["training"]["processes"] == 2
    assert two[1] == pytest.approx(one[1], rel=1e-5)  # the loss of every step
    for group, metrics in one[0]["test"].items():
        assert two[0]["test"][group] == pytest.approx(metrics), group


GRADIENTS = [
    ["--model=PixelNet", "--objective=in_batch"],
    ["--model=PixelNet", "--objective=bpr", "--worker=1"],
    ["--model=PixelNet", "--objective=sampled_softmax", "--negatives=25"],
    ["--model=PixelNet", "--objective=full_softmax", "--train_layers=none"],
    ["--model=MoRec", "--item_encoder=image+text", "--fusion=concat", "--encoder_dropout=0"],
    ["--model=PixelNet", "--share_encoding=True", "--objective=in_batch"],
    ["--model=PixelNet", "--share_encoding=True", "--objective=bpr", "--encode_chunk=7"],
    [
        "--model=PixelNet",
        "--share_encoding=True",
        "--objective=full_softmax",
        "--catalogue_per_step=40",
    ],
    ODMT,
    ["--model=SASRec", "--hidden_size=16", "--n_heads=2"],
    ["--model=SASRec", "--item_encoder=image"],
    ["--model=HGN", "--item_encoder=text", "--encoder_dropout=0", "--loss_type=BPR"],
    ["--model=BPR"],
    ["--model=VBPR", "--item_encoder=id"],
    ["--model=LightGCN"],
]


def test_two_processes_have_the_gradients_of_one(tmp_path):
    """All cases in one launch of each number of processes: starting costs more than a step."""
    world = write_world(tmp_path / "data" / "colours", users=61)
    # One plain SGD step of rate 1: what weights differ by is what gradients differ by.
    step = ["--learner=sgd", "--learning_rate=1", "--encoder_learning_rate=1", "--weight_decay=0"]
    step += ["--epochs=1", "--train_batch_size=1000", f"--data_path={world.parent}", *FLAGS]
    cases = {str(place): [*step, *case] for place, case in enumerate(GRADIENTS)}
    for processes in (1, 2):
        start(processes, SCRIPT, str(tmp_path / str(processes)), json.dumps(cases))
    for place, case in enumerate(GRADIENTS):
        _, (loss,), weights = found(tmp_path / "1" / str(place))
        results, (same,), others = found(tmp_path / "2" / str(place))
        assert results["training"]["processes"] == 2, case
        assert same == pytest.approx(loss, rel=1e-5), case
        for entry, tensor in weights.items():
            assert (others[entry] - tensor).norm() <= 1e-5 * tensor.norm() + 1e-7, (case, entry)
