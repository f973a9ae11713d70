"""From files to bytes."""

import numpy as np
import pytest
import torch

from slimmable.errors import DataError
from slimmable.tasks.images import decode as decode_module
from slimmable.tasks.images.decode import FileImages, centre, common_side, decode, with_channels

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def write(tmp_path):
    def save(mode: str, suffix: str, size: tuple[int, int] = (6, 4), number: int = 0) -> str:
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = tmp_path / f"{number}-{mode}{suffix}"
        Image.fromarray(pixels).convert(mode).save(path)
        return str(path)

    return save


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", ".png"), ("RGB", ".jpg"), ("L", ".png"), ("P", ".png"), ("RGBA", ".png"), ("CMYK", ".jpg")],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_every_mode_become_bytes_of_the_wanted_channels(write, mode, suffix, channels):
    found = FileImages((write(mode, suffix),), channels)[0]
    assert found.dtype == torch.uint8
    assert found.shape == (6, 4, channels)


def test_lossless_file_gives_its_pixels(write):
    found = FileImages((write("RGB", ".png"),))[0]
    assert np.array_equal(found.numpy(), np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_as_the_camera_was_held(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    tag = Image.Exif()
    tag[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "image.png", exif=tag)
    images = FileImages((str(tmp_path / "image.png"),))

    found = images[0].numpy()

    upright = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    turns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    assert np.array_equal(found, upright[:: turns[0], :: turns[1]])
    assert images.size(0) == found.shape[:2]


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("I", ".tiff"), ("F", ".tiff")])
def test_shades_that_would_be_cut_off_are_refused(tmp_path, mode, suffix):
    path = tmp_path / f"deep{suffix}"
    Image.new(mode, (6, 4)).save(path)
    with pytest.raises(DataError, match=r"deep.* has the mode .*, shades of more than 8 bits; expected 8. Convert it"):
        FileImages((str(path),))[0]


@pytest.mark.parametrize("large", [False, True], ids=["one thread", "several"])
def test_decoding_all_equals_decoding_one_by_one(write, monkeypatch, large):
    if large:
        monkeypatch.setattr(decode_module, "SMALL", 0)
    monkeypatch.setattr(decode_module, "CHUNK", 3)
    images = FileImages(tuple(write("RGB", ".png", (12 + number, 10), number) for number in range(8)))

    found = decode(images, 6, shorter=8, threads=2, progress=False)

    assert found.shape == (8, 6, 6, 3)
    for index in range(8):
        assert torch.equal(found[index], centre(images[index][None], 6, shorter=8)[0])


@pytest.mark.parametrize("large", [False, True], ids=["one thread", "several"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"half"], ids=["empty", "text", "cut off"])
def test_file_that_cannot_be_read_is_named(write, tmp_path, monkeypatch, large, content):
    if large:
        monkeypatch.setattr(decode_module, "SMALL", 0)
    good, bad = write("RGB", ".jpg", (40, 40)), tmp_path / "bad.jpg"
    whole = (tmp_path / "0-RGB.jpg").read_bytes()
    bad.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(DataError, match=r"image .*bad\.jpg cannot be read .* Replace it, or remove it"):
        decode(FileImages((good, str(bad))), 40, shorter=40, threads=2, progress=False)


def test_common_side_is_that_of_square_images_alike(write):
    alike = [write("RGB", ".png", (5, 5), number) for number in range(3)]
    assert common_side(FileImages(tuple(alike))) == 5
    assert common_side(FileImages((*alike, write("RGB", ".png", (6, 6), 9)))) is None
    assert common_side(FileImages((write("RGB", ".png", (5, 7), 10),))) is None


def test_common_side_names_a_file_without_a_header(tmp_path):
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.png cannot be read"):
        common_side(FileImages((str(tmp_path / "x.png"),)))


def test_centre_cuts_the_middle():
    images = torch.arange(5 * 7, dtype=torch.uint8).reshape(1, 5, 7, 1)
    assert torch.equal(centre(images, 3, shorter=5), images[:, 1:4, 2:5])


@pytest.mark.parametrize("size", [(9, 13), (13, 9), (4, 4), (30, 31)])
def test_centre_resizes_the_shorter_side_as_pillow_does(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    scale = 8 / min(size)
    height, width = (max(8, round(length * scale)) for length in size)

    found = centre(torch.from_numpy(pixels)[None], 8, shorter=8)[0]

    resized = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    top, left = (height - 8) // 2, (width - 8) // 2
    expected = resized[top : top + 8, left : left + 8]
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1


def test_grey_and_colour_become_each_other():
    grey = torch.tensor([[[[0], [200]]]], dtype=torch.uint8)
    colour = with_channels(grey, 3)
    assert colour.tolist() == [[[[0] * 3, [200] * 3]]]
    assert torch.equal(with_channels(colour, 1), grey)
    assert with_channels(grey, 1) is grey


def test_bar_changes_nothing_even_while_another_is_on_the_screen(write, monkeypatch):
    rich_progress = pytest.importorskip("rich.progress")
    monkeypatch.setattr(decode_module, "BAR_FROM", 1)
    images = FileImages(tuple(write("RGB", ".png", (4, 4), number) for number in range(3)))
    expected = decode(images, 4, shorter=4, threads=1, progress=False)
    assert torch.equal(decode(images, 4, shorter=4, threads=1, progress=True), expected)
    with rich_progress.Progress():
        assert torch.equal(decode(images, 4, shorter=4, threads=1, progress=True), expected)
