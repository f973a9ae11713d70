"""Label maps: painted, read from files, cut into squares."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from slimmable.errors import DataError, RecipeError
from slimmable.tasks.detection.shapes import Shapes, write_shapes
from slimmable.tasks.segmentation.batches import Look, resized, square
from slimmable.tasks.segmentation.maps import IGNORED, VOC, LabelMap, load_maps, painted
from slimmable.tasks.segmentation.settings import LabelMapSettings
from slimmable.tasks.segmentation.task import SegmentationTask


def folder(root, **options):
    return LabelMapSettings(dataset="folder", root=root, size=32, crop=32, workers=0, **options)


def write_pair(image, mask, labels, *, palette=False):
    image.parent.mkdir(parents=True, exist_ok=True)
    mask.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(str(image)))
    Image.fromarray(generator.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)).save(image)
    drawn = Image.fromarray(labels)
    if palette:
        drawn = drawn.convert("P")
        drawn.putpalette([i for i in range(256) for _ in range(3)])
    drawn.save(mask)


def plain_folder(root, *, top=2):
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("cat\ndog\n")
    for part, count in (("train", 3), ("val", 2)):
        for index in range(count):
            labels = np.full((20, 30), index % (top + 1), np.uint8)
            labels[0] = IGNORED
            write_pair(root / part / "images" / f"{index}.png", root / part / "masks" / f"{index}.png", labels)
    return root


def test_pixels_of_crowds_and_of_two_classes_count_nowhere():
    masks = torch.zeros(4, 2, 4, dtype=torch.uint8)
    masks[0, 0, :2] = masks[1, 0, 1:3] = masks[2, 1, :2] = masks[3, 1, 1:3] = 1
    target = {"masks": masks, "labels": torch.tensor([1, 2, 3, 3]), "iscrowd": torch.tensor([0, 0, 0, 1])}

    found = painted(target, (2, 4))

    assert found.tolist() == [[1, IGNORED, 2, 0], [3, IGNORED, IGNORED, 0]]


def test_shapes_are_the_same_from_a_folder(tmp_path):
    write_shapes(tmp_path, images=(4, 3), side=32)

    splits = load_maps(folder(tmp_path))

    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 1, 3)
    assert splits.classes == ("circle", "square", "triangle")
    drawn = Shapes(count=3, side=32, part="val", seed=0, masks=True)
    for i in range(3):
        image, target = drawn[i]
        assert torch.equal(splits.test[i].image, image)
        expected = (target["masks"].long() * target["labels"].view(-1, 1, 1)).amax(0)
        assert torch.equal(splits.test[i].labels.long(), expected)


def test_a_folder_of_images_and_label_maps(tmp_path):
    splits = load_maps(folder(plain_folder(tmp_path)))

    assert splits.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (2, 1, 2)
    image, labels = splits.test[1]
    assert (image.shape, image.dtype, labels.dtype) == ((3, 20, 30), torch.uint8, torch.uint8)
    assert labels[1:].unique().tolist() == [1]


def voc_folder(root):
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for part, names in (("train", ["a", "b"]), ("val", ["c"])):
        (lists / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            labels = np.full((20, 30), 20, np.uint8)
            write_pair(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", labels, palette=True)
    return root


def test_pascal_voc_as_it_is_unpacked(tmp_path):
    voc_folder(tmp_path / "VOCdevkit" / "VOC2012")

    splits = load_maps(folder(tmp_path))

    assert len(splits.classes) == len(VOC) == 20
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1, 1, 1)
    assert splits.test[0].labels.unique().tolist() == [20]


def test_test_images_of_pascal_voc_count_where_they_have_label_maps(tmp_path):
    root = voc_folder(tmp_path)
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("d\ne\n")
    for name in "de":
        shutil.copy(root / "JPEGImages" / "c.jpg", root / "JPEGImages" / f"{name}.jpg")

    without = load_maps(folder(root))
    shutil.copy(root / "SegmentationClass" / "c.png", root / "SegmentationClass" / "d.png")
    with pytest.raises(DataError, match=r"e\.png is missing, and 0 more"):
        load_maps(folder(root))
    shutil.copy(root / "SegmentationClass" / "c.png", root / "SegmentationClass" / "e.png")
    found = load_maps(folder(root))

    assert (len(without.train), len(without.validation), len(without.test)) == (1, 1, 1)
    assert (len(found.train), len(found.validation), len(found.test)) == (2, 1, 2)


def test_annotations_of_pascal_voc_are_not_coco_s_where_case_does_not_matter(tmp_path):
    root = voc_folder(tmp_path)
    (root / "annotations").mkdir()  # as a disk that does not tell cases apart finds Annotations/

    assert load_maps(folder(root)).classes == VOC


@pytest.mark.parametrize("form", ["files", "coco"])
def test_there_are_as_many_classes_as_a_byte_tells_apart(form, tmp_path):
    root = plain_folder(tmp_path) if form == "files" else write_shapes(tmp_path, images=(2, 1), side=32)

    def load(count):
        names = [f"c{i}" for i in range(1, count + 1)]
        if form == "files":
            (root / "classes.txt").write_text("\n".join(names))
        for file in root.glob("annotations/*.json"):
            value = json.loads(file.read_text())
            value["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
            file.write_text(json.dumps(value))
        return load_maps(folder(root))

    assert len(load(254).classes) == 254
    with pytest.raises(DataError, match="has 255 classes; expected at most 254"):
        load(255)


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nor classes.txt"):
        load_maps(folder(tmp_path))
    root = plain_folder(tmp_path / "a", top=3)
    (root / "classes.txt").write_text("cat\n")
    test = load_maps(folder(root)).test
    assert test[0].labels.max() == IGNORED
    Image.fromarray(np.full((20, 30), 2, np.uint8)).save(root / "val" / "masks" / "1.png")
    with pytest.raises(DataError, match="has label 2; expected 0 to 1, or 255"):
        test[1]
    root = plain_folder(tmp_path / "b")
    (root / "train" / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png is missing, and 0 more"):
        load_maps(folder(root))
    root = plain_folder(tmp_path / "c")
    shutil.rmtree(root / "val")
    with pytest.raises(DataError, match=r"has train; expected train and val"):
        load_maps(folder(root))
    root = plain_folder(tmp_path / "d")
    Image.new("RGB", (30, 20)).save(root / "val" / "masks" / "0.png")
    with pytest.raises(DataError, match="expected bytes of"):
        load_maps(folder(root)).test[0]
    with pytest.raises(DataError, match="9 images were asked for"):
        load_maps(folder(root, train_images=9))


def test_a_square_shows_pixels_and_their_labels_alike():
    labels = torch.arange(24 * 40, dtype=torch.int64).remainder(200).to(torch.uint8).view(24, 40)
    pixels = LabelMap(labels.expand(3, -1, -1).clone(), labels)

    same = square(pixels, size=24, crop=16, look=Look(1.0, (0.99, 0.5), flip=False))
    mirrored = square(pixels, size=24, crop=16, look=Look(1.0, (0.99, 0.5), flip=True))
    padded = square(pixels, size=24, crop=48, look=Look(1.0, (0.0, 0.0), flip=False))

    assert torch.equal(same.image[0], same.labels)
    assert torch.equal(same.labels, labels[8:24, 12:28])
    assert torch.equal(mirrored.labels, same.labels.flip(1))
    assert torch.equal(padded.labels[:24, :40], labels)
    assert (padded.labels[24:] == IGNORED).all()
    assert (padded.image[:, :, 40:] == 0).all()


def test_resizing_keeps_proportions_and_invents_no_label():
    labels = torch.tensor([[0, 3], [3, 255]], dtype=torch.uint8).repeat_interleave(10, 0).repeat_interleave(20, 1)
    found = resized(LabelMap(torch.zeros(3, 20, 40, dtype=torch.uint8), labels), 30)

    assert found.labels.shape == (30, 60)
    assert found.image.shape == (3, 30, 60)
    assert set(found.labels.unique().tolist()) == {0, 3, 255}


def test_batches_depend_on_seed_and_epoch_alone():
    task = SegmentationTask(LabelMapSettings(size=32, crop=32, batch_size=2, train_images=5, test_images=2))

    def sums(epoch, seed=0):
        batches = task.train_batches(torch.nn.Identity(), epoch=epoch, seed=seed)
        found = [(batch.images.double().sum().item(), batch.labels.sum().item()) for batch in batches]
        assert len(found) == len(batches) == 2
        return found

    assert sums(0) == sums(0)
    assert sums(0) not in (sums(1), sums(0, seed=1))
    assert [len(images) for (images,) in task.calibration_batches(samples=3, seed=0)] == [2, 1]
    assert [tuple(batch.images.shape) for batch in task.test_batches()] == [(1, 3, 32, 32)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "voc"}, "LabelMapSettings.dataset is 'voc'"),
        ({"dataset": "folder"}, "LabelMapSettings.root is None"),
        ({"crop": 8}, "LabelMapSettings.crop is 8"),
        ({"scales": (2.0, 1.0)}, "LabelMapSettings.scales"),
        ({"batch_size": 0}, "LabelMapSettings.batch_size is 0"),
        ({"test_images": 0}, "LabelMapSettings.test_images is 0"),
        ({"held_out": 0.0}, "LabelMapSettings.held_out is 0.0"),
        ({"workers": -1}, "LabelMapSettings.workers is -1"),
        ({"split_seed": -1}, "LabelMapSettings.split_seed is -1"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(RecipeError, match=message):
        LabelMapSettings(**options)
