"""Checkpoints are whole or absent, fit or say why not, and hold no pickle."""

import os

import pytest
import torch
from torch import nn

from recbole_morec.errors import CheckpointError
from recbole_morec.training import checkpoint
from recbole_morec.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint


def model(width=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))


def save(folder, network, **state):
    save_checkpoint(folder, model=network, extra={"count": torch.arange(3), "most": 2}, state=state)


def test_round_trip_with_optimizer(tmp_path):
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(
        tmp_path / "last", model=network, extra={}, state={"epoch": 4}, optimizer=optimizer
    )
    other = model()
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.5)
    state, _ = load_checkpoint(tmp_path / "last", model=other, optimizer=other_optimizer)
    assert state == {"epoch": 4}
    for network_, optimizer_ in ((network, optimizer), (other, other_optimizer)):
        optimizer_.zero_grad()
        network_(torch.full((1, 2), 2.0)).sum().backward()
        optimizer_.step()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_of_a_channels_last_parameter_goes_on_in_its_layout(tmp_path):
    """A fused optimiser pairs parameter and state by their place in memory."""

    def step(network, optimizer):
        optimizer.zero_grad()
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
        network(images).square().sum().backward()
        optimizer.step()

    def start():
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return network, torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)

    unbroken, optimizer = start()
    step(unbroken, optimizer)
    save_checkpoint(tmp_path / "last", model=unbroken, extra={}, state={}, optimizer=optimizer)
    step(unbroken, optimizer)
    resumed, its_optimizer = start()
    load_checkpoint(tmp_path / "last", model=resumed, optimizer=its_optimizer)
    step(resumed, its_optimizer)
    assert torch.equal(resumed.weight, unbroken.weight)


def test_extra_state_keeps_tensors_and_scalars(tmp_path):
    save(tmp_path / "best", model())
    _, extra = load_checkpoint(tmp_path / "best", model=model())
    assert extra["count"].tolist() == [0, 1, 2]
    assert extra["most"] == 2


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path / "last", model(), epoch=1)

    def no_space(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "last", model(), epoch=2)
    state, _ = load_checkpoint(tmp_path / "last", model=model())
    assert state == {"epoch": 1}


def test_a_crash_between_the_two_renames_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path / "last", model(), epoch=1)
    replace, calls = os.replace, []

    def crash_at_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash_at_second)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "last", model(), epoch=2)
    assert not (tmp_path / "last").exists()
    state, _ = load_checkpoint(tmp_path / "last", model=model())
    assert state == {"epoch": 1}


def test_one_that_does_not_fit_lists_what_differs(tmp_path):
    save(tmp_path / "best", model(3))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "best", model=nn.Sequential(*model(4), nn.Linear(1, 1)))
    text = str(caught.value)
    assert "0.weight: checkpoint (3, 2), model (4, 2)" in text
    assert "missing: 2.weight" in text
    assert "config.yaml" in text


def test_absent_and_damaged(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        find_checkpoint(tmp_path / "best")
    save(tmp_path / "best", model())
    (tmp_path / "best" / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "best", model=model())
    save(tmp_path / "best", model())
    network = model()
    optimizer = torch.optim.SGD(network.parameters())
    with pytest.raises(CheckpointError, match="no optimizer state"):
        load_checkpoint(tmp_path / "best", model=network, optimizer=optimizer)
