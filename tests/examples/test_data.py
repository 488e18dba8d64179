"""Batches, splits, and Fashion-MNIST as Debian packs it."""

import hashlib
import multiprocessing
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST

from examples import data, fashion_mnist
from examples.batches import IndexBatches
from examples.errors import UsageError

needs_debian = pytest.mark.skipif(not fashion_mnist.FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
SETTINGS = {"seed": 0, "batch_size": 32, "validation": 0.2}


def epoch(batches, number=0):
    batches.set_epoch(number)
    return torch.cat(list(batches)).tolist()


def test_each_epoch_has_every_sample_once_in_an_order_of_its_own():
    batches = IndexBatches(103, 10, shuffle=True, seed=0)
    assert len(batches) == len(list(batches)) == 11
    assert sorted(epoch(batches, 0)) == sorted(epoch(batches, 1)) == list(range(103))
    assert epoch(batches, 0) != epoch(batches, 1)


def test_the_order_depends_on_the_seed_and_not_on_the_global_stream():
    def order(seed):
        torch.manual_seed(np.random.randint(1000))
        return epoch(IndexBatches(50, 8, shuffle=True, seed=seed))

    assert order(0) == order(0) != order(1)


def test_batches_do_not_advance_the_global_streams():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch(IndexBatches(50, 8, shuffle=True, seed=3))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_each_batch(world):
    ranks = [list(IndexBatches(50, 16, shuffle=True, seed=1, rank=r, world_size=world)) for r in range(world)]
    whole = list(IndexBatches(50, 16, shuffle=True, seed=1))
    for parts, batch in zip(zip(*ranks, strict=True), whole, strict=True):
        assert torch.cat(parts).tolist() == batch.tolist()


def test_digits_are_split_by_class_and_standardized():
    digits = data.digits(**SETTINGS)
    images, labels = digits.train.tensors
    held_out = digits.val.tensors[1]
    assert len(labels) + len(held_out) == 1797
    assert torch.bincount(held_out).float().div(len(held_out)).sub(0.1).abs().max() < 0.005
    assert images.mean().abs() < 1e-5
    assert abs(images.std().item() - 1) < 1e-4


def test_pixels_stay_in_the_unit_interval_without_standardization():
    images = data.digits(**SETTINGS, standardize=False).train.tensors[0]
    assert (images.min(), images.max()) == (0, 1)


def test_the_split_follows_its_own_seed():
    def held_out(split_seed):
        return data.digits(**SETTINGS, split_seed=split_seed).val.tensors[1].tolist()

    assert held_out(0) == held_out(0) != held_out(1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"validation": 0}, "data.validation=0 "), ({"validation": 1797}, "1 to 1796"), ({"batch_size": 0}, "at least 1")],
)
def test_impossible_splits_are_refused(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        data.digits(**(SETTINGS | settings))


@needs_debian
def test_restored_archives_have_the_checksums_that_torchvision_knows(tmp_path):
    fashion_mnist.restore(tmp_path)
    found = {p.name: hashlib.md5(p.read_bytes(), usedforsecurity=False).hexdigest() for p in tmp_path.iterdir()}
    assert found == dict(FashionMNIST.resources)


@needs_debian
def test_fashion_mnist_comes_from_debian_and_torchvision_unpacks_it(tmp_path):
    images = data.torchvision_images(name="FashionMNIST", root=str(tmp_path), **(SETTINGS | {"validation": 12000}))
    assert len(images.train) == 48000
    assert [p.name for p in tmp_path.iterdir()] == ["FashionMNIST"]
    again = FashionMNIST(tmp_path, train=True, download=False)
    assert torch.bincount(again.targets).tolist() == [6000] * 10


@needs_debian
def test_a_damaged_archive_is_refused(tmp_path, monkeypatch):
    damaged = tmp_path / "debian"
    damaged.mkdir()
    for archive in fashion_mnist.FOLDER.glob("*.gz"):
        packed = bytearray(archive.read_bytes())
        packed[1000] ^= 1
        (damaged / archive.name).write_bytes(packed)
    monkeypatch.setattr(fashion_mnist, "FOLDER", damaged)
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    with pytest.raises(UsageError, match="could not be fetched"):
        data.torchvision_images(name="FashionMNIST", root=str(tmp_path / "root"), **SETTINGS)
    assert list((tmp_path / "root").iterdir()) == []


@needs_debian
def test_processes_that_install_at_once_do_not_collide(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(_install, [tmp_path] * 3) == [60000] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["FashionMNIST"]


def _install(root: Path) -> int:
    return len(data._torchvision("FashionMNIST", root).labels)


def _no_network(*args, **kwargs):
    raise OSError("no network in tests")


def test_processes_of_joblib_can_have_workers():
    """Hydra's joblib launcher starts such processes."""

    def samples(module):
        return sum(len(labels) for _, labels in module.train_dataloader())

    module = data.digits(seed=0, batch_size=900, validation=0.2, num_workers=1)
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(samples)(module) for _ in range(2)) == [len(module.train)] * 2
