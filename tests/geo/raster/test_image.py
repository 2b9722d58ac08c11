"""Training pictures and label rasters."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster import image as image_module
from rsprompter_cli.geo.raster.scene import read_label, read_picture
from tests.make.rasters import pattern, write_raster


def rgb(height=20, width=30):
    return np.ascontiguousarray(np.moveaxis(pattern(height, width), 0, -1))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_labels_are_exact(tmp_path, dtype):
    values = pattern(20, 30, 1, dtype=dtype)
    label = read_label(write_raster(tmp_path / "a.tif", values, crs=None, transform=None))
    assert label.dtype == dtype
    assert np.array_equal(label, values[0])


def test_label_pngs_are_exact(tmp_path):
    values = pattern(20, 30, 1)[0]
    Image.fromarray(values).save(tmp_path / "grey.png")
    indexed = Image.fromarray(values % 4, mode="P")
    indexed.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    indexed.save(tmp_path / "palette.png")
    assert np.array_equal(read_label(tmp_path / "grey.png"), values)
    assert np.array_equal(read_label(tmp_path / "palette.png"), values % 4)


@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_white_is_the_larger_value_of_a_one_bit_label(tmp_path, photometric):
    """As Pillow sees the file, whichever way its bits are stored."""
    bits = pattern(16, 24, 1) % 2
    path = write_raster(tmp_path / "a.tif", bits, crs=None, transform=None, nbits=1, photometric=photometric)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("1"))
    assert np.array_equal(read_label(path) > 0, expected)
    assert set(np.unique(read_label(path))) == {0, 1}


def test_labels_have_one_real_band(tmp_path):
    with pytest.raises(InputError, match="one band, this one has 3"):
        read_label(write_raster(tmp_path / "a.tif", pattern(9, 9)))
    with pytest.raises(InputError, match="complex"):
        read_label(write_raster(tmp_path / "b.tif", np.ones((1, 9, 9), np.complex64)))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_pictures_come_back(tmp_path, suffix):
    Image.fromarray(rgb()).save(tmp_path / f"a.{suffix}", lossless=True)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert np.array_equal(picture, rgb())


def test_tiffs_go_by_the_band_rule(tmp_path):
    grey = pattern(9, 8, 1)
    four = pattern(9, 8, 4)
    assert np.array_equal(read_picture(write_raster(tmp_path / "g.tif", grey)), np.repeat(grey[0][..., None], 3, -1))
    bgra = write_raster(tmp_path / "b.tif", four, colours=("blue", "green", "red", "alpha"))
    assert np.array_equal(read_picture(bgra), np.moveaxis(four[[2, 1, 0]], 0, -1))
    coloured = write_raster(tmp_path / "p.tif", grey % 2, palette={0: (1, 2, 3, 255), 1: (200, 100, 50, 255)})
    assert np.array_equal(read_picture(coloured)[..., 0], np.where(grey[0] % 2, 200, 1))
    bits = write_raster(tmp_path / "n.tif", grey % 4, nbits=2)
    assert np.array_equal(read_picture(bits)[..., 1], grey[0] % 4 * 85)


def test_grey_palette_and_transparent_pngs_become_rgb(tmp_path):
    for mode in ("L", "LA", "P", "RGBA", "1"):
        Image.fromarray(rgb()).convert(mode).save(tmp_path / "a.png")
        assert read_picture(tmp_path / "a.png").shape == (20, 30, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that orientation undoes
    image = Image.fromarray(upright)
    if orientation > 1:
        image = image.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    assert np.array_equal(read_picture(tmp_path / "a.jpg") > 128, upright > 128)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_more_than_eight_bits_are_refused(tmp_path, name):
    path = tmp_path / name
    if name.endswith("png"):
        Image.fromarray(pattern(9, 9, 1, dtype="uint16")[0]).save(path)
    else:
        write_raster(path, pattern(9, 9, dtype="uint16"))
    with pytest.raises(InputError, match="must have 8 bits"):
        read_picture(path)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    Image.new("L", (10_000, 9_000)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="more than 89,478,485 pixels"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(InputError, match="more than 89,478,485 pixels"):
        read_label(tmp_path / "a.png")
    Image.new("L", (200, 100)).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    with pytest.raises(InputError, match=r"b\.png: .*pixels"):
        read_picture(tmp_path / "b.png")
    monkeypatch.setattr(image_module, "MAX_PIXELS", 5_000)
    with pytest.raises(InputError, match="200 x 100 px"):
        read_picture(write_raster(tmp_path / "c.tif", pattern(100, 200)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_pictures_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb(200, 300)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=path.name):
        read_picture(path)


def test_real_labels_agree_with_their_annotations(shared):
    import json

    folder = shared / "data/whu"
    for split in ("train", "val", "test"):
        (document,) = (json.loads(file.read_text()) for file in folder.glob(f"expected_annotations/*{split}.json"))
        for image in document["images"]:
            area = sum(entry["area"] for entry in document["annotations"] if entry["image_id"] == image["id"])
            assert np.count_nonzero(read_label(folder / "imgs" / split / "label" / image["file_name"])) == area
            assert read_picture(folder / "imgs" / split / "image" / image["file_name"]).shape == (512, 512, 3)


def test_the_first_frame_of_an_animation_is_read_and_told(tmp_path, caplog):
    frames = [Image.fromarray(np.full((20, 30, 3), grey, np.uint8)) for grey in (40, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with caplog.at_level("INFO"):
        assert (read_picture(tmp_path / "a.png") == 40).all()
    assert "a.png: is an animation of 2 frames; only the first is read" in caplog.text
