"""Checkpoints are written whole and verified, and the newest valid one is loaded."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.checkpoint import State, load_optimizer_state, optimizer_state


def state_at(step: int) -> State:
    return {"x": torch.full((3,), float(step)), "position": {"step": step}}


def test_round_trip_of_network_and_optimizer(tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)

    net = network()
    adam = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    net(torch.randn(5, 3, 6, 6)).square().sum().backward()
    adam.step()
    checkpoint.save(tmp_path, 1, {"parts": {"net": net.state_dict(), "adam": optimizer_state(adam)}})

    loaded, complaints = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert complaints == []
    other = network()
    other_adam = torch.optim.Adam(other.parameters(), lr=0.1, fused=True)
    other.load_state_dict(loaded["parts"]["net"])
    load_optimizer_state(other_adam, loaded["parts"]["adam"])
    x = torch.randn(5, 3, 6, 6)
    for n, a in ((net, adam), (other, other_adam)):
        a.zero_grad()
        n(x).square().sum().backward()
        a.step()
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_only_the_newest_three_checkpoints_remain(tmp_path: Path) -> None:
    for step in range(5):
        checkpoint.save(tmp_path, step, state_at(step))
    checkpoint.save(tmp_path, 4, state_at(4))  # overwrites the same step
    (tmp_path / ".new").mkdir()  # left by a killed process
    checkpoint.save(tmp_path, 4, state_at(9))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{s:012d}" for s in (2, 3, 4)]
    assert checkpoint.load_checkpoint(tmp_path / "step-000000000004")["position"] == {"step": 9}


def test_a_failed_save_is_a_one_line_error_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 1, state_at(1))

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"step-000000000002: No space left .* bytes free"):
        checkpoint.save(tmp_path, 2, state_at(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000000001"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "state", "manifest"])
def test_a_damaged_checkpoint_is_skipped_with_a_message(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, 1, state_at(1))
    newest = checkpoint.save(tmp_path, 2, state_at(2))
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
    assert loaded["position"]["step"] == 1
    assert len(complaints) == 1
    assert str(newest) in complaints[0]


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) == (None, [])


def test_networks_of_a_format_1_checkpoint_are_read(tmp_path: Path) -> None:
    """Runs of earlier versions can still be evaluated."""
    folder = tmp_path / "step-000000000001"
    folder.mkdir()
    safetensors.torch.save_file(
        {"network.agent.x": torch.ones(2), "optimizer.y": torch.ones(2)}, folder / "tensors.safetensors"
    )
    (folder / "state.json").write_text('{"cursor": {"phase": "done"}}')
    sums = {f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in ("tensors.safetensors", "state.json")}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "sha256": sums}))
    state, damaged = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert not damaged
    assert (state["phase"], list(state["agent"])) == ("done", ["x"])


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 1, state_at(1))
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, "format": 3}))
    with pytest.raises(UserError, match="expected format 2 or older, got 3"):
        checkpoint.load_newest(tmp_path)
