"""RAFT for streams gives torchvision's flow, for less work. Weights are random: the layers are torchvision's."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_sets import texture

from igrft.errors import IgrftError
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.raft import Raft

torch = pytest.importorskip("torch")
UPDATES = 4


@pytest.fixture(scope="module", params=["raft_small", "raft_large"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, str]:
    """Name, torchvision's model, and a file of its weights."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    made = get_model(request.param, weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    torch.save(made.state_dict(), path)
    return request.param, made, str(path)


def pictures(count: int, width: int = 150, height: int = 131) -> list[np.ndarray]:
    """A texture that moves by 2 and 1 pixels, in colour."""
    wide = np.stack([texture(width + 2 * count, height + count, seed=s) for s in range(3)], axis=2)
    return [np.ascontiguousarray(wide[i : i + height, 2 * i : 2 * i + width]) for i in range(count)]


def torchvisions(model: Any, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
    """The flow as torchvision's forward gives it, padded as :class:`Raft` says."""
    height, width = previous.shape[:2]
    pad = (0, max(-width % 8, 128 - width), 0, max(-height % 8, 128 - height))
    pair = [
        torch.nn.functional.pad(torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1, pad, mode="replicate")
        for p in (previous, following)
    ]
    with torch.inference_mode():
        flow = model(*pair, num_flow_updates=UPDATES)[-1]
    return flow[0, :, :height, :width].permute(1, 2, 0).numpy()


def raft(model: tuple[str, Any, str], **settings: Any) -> Raft:
    return Raft(model[0], weights=model[2], updates=UPDATES, device="cpu", **settings)


def test_the_flow_is_torchvisions(model: tuple[str, Any, str]) -> None:
    torch.set_num_threads(1)
    shown = pictures(4)
    expected = [torchvisions(model[1], *pair) for pair in pairwise(shown)]
    assert max(np.abs(flow).max() for flow in expected) > 1
    for batch in (2, 8):
        found = list(raft(model, batch=batch).stream(iter(shown)))
        assert len(found) == 3 and all(f.dtype == np.float32 and f.shape == (131, 150, 2) for f in found)
        for ours, theirs in zip(found, expected, strict=True):
            assert np.abs(ours - theirs).max() < 2e-4
    assert np.abs(raft(model)(shown[0], shown[1]) - expected[0]).max() < 2e-4
    assert list(raft(model).stream(iter(shown[:1]))) == list(raft(model).stream(iter([]))) == []


def test_every_picture_is_encoded_once_and_only_the_last_flow_is_brought_to_size(model: tuple[str, Any, str]) -> None:
    estimator = raft(model, batch=2)
    inner = estimator._network._model
    seen = {"encoded": 0, "context": 0, "updates": 0, "upsampled": 0}

    def note(name: str, rows: bool) -> Any:
        return lambda _, given, __: seen.__setitem__(name, seen[name] + (len(given[0]) if rows else 1))

    inner.feature_encoder.register_forward_hook(note("encoded", True))
    inner.context_encoder.register_forward_hook(note("context", True))
    inner.update_block.register_forward_hook(note("updates", False))
    if inner.mask_predictor is not None:
        inner.mask_predictor.register_forward_hook(note("upsampled", False))
    list(estimator.stream(iter(pictures(6))))
    batches = 3  # of 2, 2 and 1 pairs
    assert seen["encoded"] == 6 and seen["context"] == 5 and seen["updates"] == UPDATES * batches
    assert seen["upsampled"] == (0 if inner.mask_predictor is None else batches)


def test_the_look_up_is_torchvisions_inside_on_the_edge_and_far_outside(model: tuple[str, Any, str]) -> None:
    network = raft(model)._network
    block = network._model.corr_block
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 1, 64, 16, 18, generator=generator)
    block.build_pyramid(*maps)
    centres = torch.rand(1, 2, 16, 18, generator=generator) * 40 - 12
    centres[0, :, 0, :4] = torch.tensor([[0.0, 17.0, 5.0, -1e9], [0.0, 15.0, 5.5, 1e9]])
    expected = block.index_pyramid(centres)
    flat = centres.permute(0, 2, 3, 1).reshape(-1, 2)
    found = torch.cat([network._look_up(v, flat / 2**i) for i, v in enumerate(block.corr_pyramid)], dim=1)
    assert torch.allclose(found.view(1, 16, 18, -1).permute(0, 3, 1, 2), expected, atol=1e-4)


def test_half_precision_is_near(model: tuple[str, Any, str]) -> None:
    shown = pictures(3)
    full, half = (list(raft(model, precision=p).stream(iter(shown))) for p in ("float32", "float16"))
    for one, other in zip(full, half, strict=True):
        assert 0 < np.abs(one - other).mean() < 0.05 and other.dtype == np.float32
    # On a CPU nobody asked for less.
    assert np.array_equal(next(raft(model, precision="auto").stream(iter(shown))), full[0])


def test_how_long_the_device_worked_is_known(model: tuple[str, Any, str]) -> None:
    import time

    estimator = raft(model, batch=2)
    assert np.isnan(estimator.busy.share) and estimator.ahead == 0
    for _ in estimator.stream(iter(pictures(5, 128, 128))):
        time.sleep(0.02)
    busy = estimator.busy
    assert busy.pairs == 4 and 0 < busy.seconds < busy.wall
    assert busy.wall - busy.seconds > 0.03  # the user's time, but for what came after the last batch


def test_a_device_that_is_not_there_is_one_line(model: tuple[str, Any, str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(IgrftError, match="device 'cuda' cannot be used .*; set device: auto"):
        Raft(model[0], weights=model[2], device="cuda")


def test_a_gpu_is_not_shared_by_a_worker_a_core() -> None:
    def most(**settings: Any) -> int | None:
        return Interaction(**settings).expand()[0].max_workers

    assert most(flow="raft_large", device="cuda") == most(flow="raft_small", device="cuda:1") == 2
    assert most(flow="raft_large", device="cpu") is None and most(device="cuda") is None
    assert most(flow="raft_large") == (2 if torch.cuda.is_available() else None)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a C++ compiler")
def test_compiled_it_gives_the_same(tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    torch.save(get_model("raft_small", weights=None).state_dict(), tmp_path / "small.pth")
    shown = pictures(6, 128, 128)
    settings: dict[str, Any] = {"weights": str(tmp_path / "small.pth"), "updates": 2, "device": "cpu", "batch": 2}
    plain, compiled = (list(Raft("raft_small", compiled=c, **settings).stream(iter(shown))) for c in (False, True))
    for one, other in zip(plain, compiled, strict=True):
        assert np.abs(one - other).max() < 2e-4
