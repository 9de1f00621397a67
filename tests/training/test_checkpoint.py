"""Whole, checked, and the newest valid one."""

from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.checkpoint import Checkpoint


def some(step: int) -> Checkpoint:
    return Checkpoint({"x": torch.full((3,), float(step))}, {"step": step})


def test_round_trip_of_network_and_optimizer(tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)

    net = network()
    adam = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    net(torch.randn(5, 3, 6, 6)).square().sum().backward()
    adam.step()
    saved = Checkpoint()
    saved.put_network("net", net)
    saved.put_optimizer("adam", adam)
    checkpoint.save(tmp_path, 1, saved)

    loaded, complaints = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert complaints == []
    other = network()
    other_adam = torch.optim.Adam(other.parameters(), lr=0.1, fused=True)
    loaded.get_network("net", other)
    loaded.get_optimizer("adam", other_adam)
    x = torch.randn(5, 3, 6, 6)
    for n, a in ((net, adam), (other, other_adam)):
        a.zero_grad()
        n(x).square().sum().backward()
        a.step()
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_three_are_kept_and_nothing_else(tmp_path: Path) -> None:
    for step in range(5):
        checkpoint.save(tmp_path, step, some(step))
    checkpoint.save(tmp_path, 4, some(4))  # the same once more
    (tmp_path / ".new").mkdir()  # left by a killed process
    checkpoint.save(tmp_path, 4, some(9))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{s:012d}" for s in (2, 3, 4)]
    assert checkpoint.load(tmp_path / "step-000000000004").state == {"step": 9}


def test_a_save_that_fails_is_one_line_and_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, some(1))

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"step-000000000002: No space left .* bytes free"):
        checkpoint.save(tmp_path, 2, some(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000000001"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "state", "manifest"])
def test_a_damaged_one_is_passed_over_with_a_line(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, 1, some(1))
    newest = checkpoint.save(tmp_path, 2, some(2))
    tensors = newest / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
        tensors.write_bytes(data)
    elif damage == "truncate":
        tensors.write_bytes(data[:-5])
    elif damage == "missing":
        tensors.unlink()
    elif damage == "state":
        (newest / "state.json").write_text('{"step": 3}')
    else:
        (newest / "manifest.json").write_text("{")
    loaded, complaints = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] == 1
    assert len(complaints) == 1
    assert str(newest) in complaints[0]


def test_none_at_all(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) == (None, [])
