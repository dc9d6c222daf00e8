"""Training streams what lies on a store, or on the Hub: the frames of the folder, fetched as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, USER, Hub, hub_server
from labelled_set import CAMERA, make_labelled_set
from s3_server import S3Server
from training_sets import make_recipe

from igrft import columns as c
from igrft.errors import IgrftError
from igrft.training.batches import RawBatch
from igrft.training.data import TrainingData
from igrft.training.recipe import DatasetEntry


def batches(entry: DatasetEntry, steps: int = 6, workers: int = 0) -> list[RawBatch]:
    entry.streaming, entry.buffer_size, entry.shards = True, 16, 4
    recipe = make_recipe(entry, objective__type="awr", advantage__steps=5)
    data = TrainingData.open(recipe, image_policy=True, chunk=6, has_text=True)
    return list(data.loader(0, steps, workers=workers))


def check_same(found: list[RawBatch], expected: list[RawBatch]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.index, b.index)
        assert a.next_observation is not None and b.next_observation is not None
        assert torch.equal(a.observation[c.ACTION], b.observation[c.ACTION])
        assert torch.equal(a.observation[CAMERA], b.observation[CAMERA])
        assert torch.equal(a.next_observation[CAMERA], b.next_observation[CAMERA])
        assert all(torch.equal(a.labels[n], b.labels[n]) for n in ("reward_sum", "return_subtask", "critic"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_url(s3: S3Server, tmp_path: Path, workers: int) -> None:
    root = make_labelled_set(tmp_path / "set")
    url = s3.upload(root, "sets/set")
    check_same(batches(DatasetEntry(root=url), workers=workers), batches(DatasetEntry(root=str(root))))
    whole = sum(p.stat().st_size for p in root.rglob("*.mp4"))
    assert 0 < s3.received(".mp4") <= 3 * whole
    # A store that is gone is told as such, and not taken for a damaged video.
    s3.fault = lambda method, key: 503 if key.endswith(".mp4") else None
    again = s3.upload(root, "sets/again")
    with pytest.raises(IgrftError, match="503|Service Unavailable|could not be read"):
        batches(DatasetEntry(root=again), workers=workers)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("IGRFT_CACHE", str(tmp_path / "cache"))
        close_session()
        yield server
        close_session()


def test_a_dataset_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    root = make_labelled_set(tmp_path / "set")
    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.create_repo(f"{USER}/set", repo_type="dataset")
    api.upload_folder(folder_path=root, repo_id=f"{USER}/set", repo_type="dataset")
    check_same(batches(DatasetEntry(repo_id=f"{USER}/set")), batches(DatasetEntry(root=str(root))))
    # Nothing went into the Hub's own cache: videos are read where they lie.
    assert not list((tmp_path / "hub").rglob("*.mp4"))
