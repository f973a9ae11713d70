"""The classification task as the training loop sees it."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimmable.errors import DataError, MissingDependencyError, RecipeError
from slimmable.tasks import ClassificationTask, ImageDataSettings
from slimmable.tasks.images.memory import MemoryBatches
from slimmable.tasks.images.sources import load_splits
from slimmable.tasks.images.stream import StreamBatches
from slimmable.train.task import Metric, Task

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits():
    return ClassificationTask(ImageDataSettings(batch_size=64), label_smoothing=0.1)


@pytest.fixture
def fake_cifar(monkeypatch):
    """torchvision's CIFAR-10 as 60 images, without its files."""
    datasets = pytest.importorskip("torchvision").datasets

    class Small:
        base_folder = "cifar-10-batches-py"
        classes = ("ant", "bee")

        def __init__(self, root, train, download):
            count = 40 if train else 20
            self.data = np.random.default_rng(train).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            self.targets = [index % 2 for index in range(count)]

    monkeypatch.setattr(datasets, "CIFAR10", Small)


def accuracy(task, net, batches):
    metric = task.metrics()
    net.eval()
    with torch.no_grad():
        for batch in batches:
            metric.update(task.forward(net, batch), batch)
    return metric.compute()[task.metric]


def test_it_is_a_task(digits):
    assert isinstance(digits, Task)
    metric: Metric = digits.metrics()
    assert digits.metric == "accuracy"
    assert digits.higher_is_better
    assert metric is not digits.metrics()


def test_digits_are_all_there_once(digits):
    splits = digits.pipeline.splits
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [1293, 145, 359]
    images = torch.cat([part.images.flatten(1) for part in parts])
    from sklearn.datasets import load_digits

    expected = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, images.numpy())) == sorted(map(bytes, expected))
    for part in parts:
        counts = torch.bincount(part.labels)
        assert counts.max() <= 1.1 * counts.min() + 2


def test_batches_fit_the_network_and_the_losses(digits):
    torch.manual_seed(0)
    net = digits.model()
    for batch in (next(iter(digits.train_batches(net, epoch=0, seed=0))), next(iter(digits.test_batches()))):
        outputs = digits.forward(net, batch)
        assert outputs.shape == (64, 10)
        expected = F.cross_entropy(outputs, batch.labels, label_smoothing=0.1)
        torch.testing.assert_close(digits.loss(outputs, batch), expected)
        soft = -(outputs.flip(0).softmax(1) * outputs.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(digits.distillation_loss(outputs, outputs.flip(0), batch), soft)
    assert net(*digits.example_inputs()).shape == (2, 10)


def test_normalised_training_pixels_have_mean_zero_and_variance_one(digits):
    batches = digits.pipeline.plain_batches("train", device=torch.device("cpu"))
    pixels = torch.cat([batch.images for batch in batches])
    assert len(pixels) == 1293
    assert abs(pixels.mean().item()) < 0.01
    assert abs(pixels.std().item() - 1) < 0.01


def test_calibration_takes_as_many_training_images_as_it_says_varied_and_in_random_order(digits):
    train = {tuple(image.flatten().tolist()) for image in digits.pipeline.splits.train.images}
    normalise = digits.pipeline.plain_batches("train", device=torch.device("cpu")).normalise
    first, again, other = (
        torch.cat([images for (images,) in digits.calibration_batches(samples=100, seed=seed)]) for seed in (0, 0, 1)
    )
    assert first.shape == (100, 1, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    bytes_seen = ((first * normalise.std[0] + normalise.mean[0]) * 255).round().to(torch.uint8)
    plain = [tuple(image.flatten().tolist()) in train for image in bytes_seen]
    assert 0 < sum(plain) < 100  # one shift in nine leaves an image as it is


def test_calibration_says_how_many_batches_it_gives(digits):
    for samples in (1, 64, 100, 5000):
        batches = digits.calibration_batches(samples=samples, seed=0)
        assert len(list(batches)) == len(batches)


def test_same_epoch_and_seed_give_the_same_batches(digits):
    net = nn.Identity()
    first = digits.train_batches(net, epoch=1, seed=2)
    again = ClassificationTask(ImageDataSettings(batch_size=64)).train_batches(net, epoch=1, seed=2)
    other = digits.train_batches(net, epoch=2, seed=2)
    assert len(first) == 1293 // 64
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.images, b.images) for a, b in zip(first, other, strict=True))


def test_digits_are_learnt_in_seconds(digits):
    torch.manual_seed(0)
    net = ClassificationTask(width=0.25).model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for epoch in range(6):
        net.train()
        for batch in digits.train_batches(net, epoch=epoch, seed=0):
            optimizer.zero_grad()
            digits.loss(digits.forward(net, batch), batch).backward()
            optimizer.step()
    assert accuracy(digits, net, digits.validation_batches()) > 0.9
    assert accuracy(digits, net, digits.test_batches()) > 0.9


def test_cifar_arrays_are_split_and_fed(fake_cifar, tmp_path):
    settings = ImageDataSettings(dataset="cifar10", root=tmp_path, batch_size=8, train_samples=20, test_samples=10)
    task = ClassificationTask(settings, network="resnet20", width=0.5)
    splits = task.pipeline.splits
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 4, 10)
    assert torch.bincount(splits.test.labels).tolist() == [5, 5]
    assert task.pipeline.augmentation == "shift-flip"
    batch = next(iter(task.train_batches(nn.Identity(), epoch=0, seed=0)))
    assert task.forward(task.model(), batch).shape == (8, 2)


def test_cifar_at_the_size_of_imagenet_is_streamed_in_training(fake_cifar, tmp_path):
    settings = ImageDataSettings(dataset="cifar10", root=tmp_path, batch_size=2, image_size=96, workers=0)
    task = ClassificationTask(settings)
    train = task.train_batches(nn.Identity(), epoch=0, seed=0)
    assert isinstance(train, StreamBatches)
    assert next(iter(train)).images.shape == (2, 3, 96, 96)
    test = task.test_batches()
    assert isinstance(test, MemoryBatches)
    assert next(iter(test)).images.shape == (2, 3, 96, 96)
    assert next(iter(task.calibration_batches(samples=4, seed=0)))[0].shape == (2, 3, 96, 96)


@pytest.mark.parametrize("download", [False, True])
def test_missing_cifar_says_how_to_get_it(tmp_path, monkeypatch, download):
    datasets = pytest.importorskip("torchvision").datasets
    if download:

        def unreachable(self):
            raise OSError("no route to host")

        monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    settings = ImageDataSettings(dataset="cifar10", root=tmp_path, download=download)
    with pytest.raises(DataError, match="Check the connection" if download else "Set download=true"):
        load_splits(settings)


def test_folder_of_images_end_to_end(write_folder):
    root = write_folder({"train": {"cat": 12, "dog": 12}, "test": {"cat": 3, "dog": 3}})
    task = ClassificationTask(
        ImageDataSettings(dataset="folder", root=root, batch_size=4, channels=1), network="digits_cnn"
    )
    assert task.classes == ("cat", "dog")
    assert task.pipeline.splits.image_size == 8
    net = task.model()
    assert 0 <= accuracy(task, net, task.validation_batches()) <= 1
    assert len(list(task.train_batches(net, epoch=0, seed=0))) == 5


def test_images_are_decoded_once(write_folder, monkeypatch):
    from slimmable.tasks.images import pipeline

    calls = []
    real = pipeline.decode
    monkeypatch.setattr(pipeline, "decode", lambda *args, **options: calls.append(args) or real(*args, **options))
    root = write_folder({"train": {"cat": 6}, "test": {"cat": 2}})
    task = ClassificationTask(ImageDataSettings(dataset="folder", root=root, batch_size=2))
    for epoch in range(3):
        list(task.train_batches(nn.Identity(), epoch=epoch, seed=0))
        list(task.calibration_batches(samples=4, seed=epoch))
    assert len(calls) == 1


def test_moved_task_gives_batches_on_the_device_and_leaves_the_first_alone(digits):
    moved = digits.to(torch.device("meta"))
    assert next(iter(moved.test_batches())).images.device.type == "meta"
    assert next(iter(moved.train_batches(nn.Identity(), epoch=0, seed=0))).labels.device.type == "meta"
    assert moved.example_inputs()[0].device.type == "meta"
    assert next(iter(digits.test_batches())).images.device.type == "cpu"
    assert moved.pipeline is digits.pipeline


def test_wrong_outputs_are_named(digits):
    batch = next(iter(digits.test_batches()))
    with pytest.raises(DataError, match=r"returned \(64, 7\); expected logits of shape \(64, 10\)"):
        digits.forward(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), batch)
    with pytest.raises(DataError, match="returned tuple"):
        digits.forward(lambda images: (images, images), batch)


def test_network_of_other_channels_is_refused_with_the_cure():
    with pytest.raises(RecipeError, match="takes images of 3 channels, the data have 1; set channels=3"):
        ClassificationTask(network="resnet20").model()
    task = ClassificationTask(ImageDataSettings(channels=3, batch_size=2), network="resnet20", width=0.5)
    assert task.model()(*task.example_inputs()).shape == (2, 10)
    assert next(iter(task.test_batches())).images.shape == (2, 3, 8, 8)


def test_network_may_be_a_function():
    task = ClassificationTask(network=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert task.model() is not task.model()
    with pytest.raises(RecipeError, match="a function decides them itself"):
        ClassificationTask(network=nn.Identity, width=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1"),
        ({"dataset": "mnist"}, "dataset is 'mnist'; expected one of digits, cifar10"),
        ({"augmentation": "flip"}, "augmentation is 'flip'; expected one of none, shift"),
        ({"channels": 4}, "channels is 4"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale"),
        ({"std": (0.0,)}, "std"),
        ({"train_samples": 0}, "train_samples is 0"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"dataset": "folder"}, "root is None; data set .folder. lies in a folder"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        dataclasses.replace(ImageDataSettings(), **changes)


def test_moments_of_another_number_of_channels_are_named():
    with pytest.raises(RecipeError, match=r"mean is .*expected 1 numbers"):
        load_splits(ImageDataSettings(mean=(0.1, 0.2)))


def test_label_smoothing_out_of_range_is_named():
    with pytest.raises(RecipeError, match=r"label_smoothing is 1\.5"):
        ClassificationTask(label_smoothing=1.5)


@pytest.mark.parametrize(
    ("package", "settings"),
    [
        ("sklearn.datasets", ImageDataSettings()),
        ("torchvision", ImageDataSettings(dataset="cifar100", root="x")),
    ],
)
def test_missing_package_is_named(monkeypatch, package, settings):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match="pip install 'slimmable"):
        load_splits(settings)


def test_task_needs_no_data_package_until_data_are_asked_for(monkeypatch):
    for package in ("sklearn.datasets", "torchvision", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    task = ClassificationTask()
    with pytest.raises(MissingDependencyError):
        task.test_batches()
