"""Pictures as people have them: any size, turned, transparent, in 16 bits, animated, damaged, or not there."""

import io

import numpy as np
import pytest
from PIL import Image

from harness.data.pictures import fit_picture, read_picture
from harness.errors import HarnessError

LEFT, RIGHT = (200, 30, 40), (20, 60, 220)


def halves(size=(40, 30)) -> Image.Image:
    """Red at the left, blue at the right."""
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2], pixels[:, size[0] // 2 :] = LEFT, RIGHT
    return Image.fromarray(pixels)


def near(pixel, color, tolerance=12) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - color).max() <= tolerance)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "PNG", "JPG"])
@pytest.mark.parametrize("size", [(40, 30), (7, 5), (500, 90), (24, 24)])
def test_every_format_and_size_covers_the_frame(tmp_path, suffix, size):
    halves(size).save(tmp_path / f"photo.{suffix}")
    pixels = read_picture(tmp_path / f"photo.{suffix}", 24, 32).pixels
    assert (pixels.shape, pixels.dtype) == ((24, 32, 3), np.uint8)
    assert near(pixels[12, 2], LEFT, 30)
    assert near(pixels[12, -3], RIGHT, 30)


def test_a_picture_of_the_frames_size_is_left_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    read = read_picture(tmp_path / "photo.png", 24, 32)
    assert np.array_equal(read.pixels, pixels)
    assert read.notes == ()


def test_the_crop_is_about_the_center_and_keeps_the_aspect():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # the middle third, which is square
    assert fit_picture(Image.fromarray(pixels), 20, 20).pixels.min() == 255
    assert np.array_equal(
        fit_picture(Image.fromarray(pixels.transpose(1, 0, 2)), 20, 20).pixels, np.full((20, 20, 3), 255)
    )


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # stored so; to be turned by 270°
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photo_is_turned_as_its_exif_says(tmp_path, orientation, suffix):
    upright = halves((48, 36))
    pixels = np.array(upright)
    pixels[:18, :24] = (240, 240, 0)  # no symmetry left
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(pixels).transpose(TURNS[orientation])
    stored.save(tmp_path / f"photo.{suffix}", exif=exif, quality=95)
    read = read_picture(tmp_path / f"photo.{suffix}", 36, 48).pixels
    assert np.abs(read.astype(int) - pixels)[4:-4, 4:20].mean() < 12
    assert np.abs(read.astype(int) - pixels).mean() < 12


def test_an_odd_exif_tag_does_not_keep_a_photo_from_being_turned(tmp_path):
    """Text in a tag of numbers: Pillow can read it, but not write it anew."""
    exif = Image.Exif()
    exif[0x0112], exif[0x9003] = 6, "2020"
    buffer = io.BytesIO()
    halves((36, 48)).save(buffer, "jpeg", exif=exif)
    content = bytearray(buffer.getvalue())
    content[content.find(b"Exif\0\0") + 6 + 8 + 2 + 12] = 0x01  # the second entry's tag: 0x0103, the compression
    (tmp_path / "photo.jpg").write_bytes(content)
    pixels = read_picture(tmp_path / "photo.jpg", 36, 48).pixels
    assert near(pixels[2, 24], LEFT, 30)
    assert near(pixels[-3, 24], RIGHT, 30)


def transparent(mode: str) -> Image.Image:
    """Opaque at the left, gone at the right."""
    image = halves().convert("RGBA")
    alpha = np.zeros((30, 40), np.uint8)
    alpha[:, :20] = 255
    image.putalpha(Image.fromarray(alpha))
    return image.convert(mode)


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("RGBA", "webp"), ("LA", "png")])
def test_what_is_transparent_becomes_black_and_is_told(tmp_path, mode, suffix):
    transparent(mode).save(tmp_path / f"photo.{suffix}")
    read = read_picture(tmp_path / f"photo.{suffix}", 30, 40)
    assert read.pixels[15, 5].max() > 50
    assert read.pixels[15, 35].max() <= 2
    assert any("transparent parts became black" in note for note in read.notes)


def test_half_transparency_is_half_as_bright():
    image = Image.new("RGBA", (24, 24), (200, 100, 50, 128))
    assert near(fit_picture(image, 24, 24).pixels[3, 3], (100, 50, 25), 2)


def test_a_palette_with_a_transparent_color(tmp_path):
    image = halves().quantize(4)
    clear = image.getpixel((35, 5))
    image.save(tmp_path / "photo.png", transparency=clear)
    read = read_picture(tmp_path / "photo.png", 30, 40)
    assert near(read.pixels[15, 5], LEFT)
    assert read.pixels[15, 35].max() == 0
    assert len(read.notes) == 1


def test_an_opaque_alpha_channel_says_nothing(tmp_path):
    halves().convert("RGBA").save(tmp_path / "photo.png")
    read = read_picture(tmp_path / "photo.png", 30, 40)
    assert read.notes == ()
    assert near(read.pixels[15, 5], LEFT, 1)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P", "I;16"])
def test_other_color_modes(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray((np.full((30, 40), 128) * 257).astype(np.uint16))
    else:
        image = Image.new("RGB", (40, 30), (255, 255, 255) if mode == "1" else (128, 128, 128)).convert(mode)
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    image.save(path)
    assert near(read_picture(path, 24, 24).pixels[12, 12], (255,) * 3 if mode == "1" else (128,) * 3, 6)


def test_one_pixel_is_a_plain_frame_and_told(tmp_path):
    Image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / "dot.png")
    read = read_picture(tmp_path / "dot.png", 24, 32)
    assert (read.pixels == (10, 200, 30)).all()
    assert any("only 1×1 pixels, enlarged to cover 32×24" in note for note in read.notes)


def test_a_very_long_picture_takes_no_more_memory_than_it_has(tmp_path):
    Image.new("RGB", (60000, 1), (10, 200, 30)).save(tmp_path / "line.png")
    read = read_picture(tmp_path / "line.png", 480, 832)  # covering it first would take 24 thousand million pixels
    assert read.pixels.shape == (480, 832, 3)
    assert any("was cut off" in note for note in read.notes)


def test_a_phones_photo_with_previews_is_no_animation(tmp_path):
    halves().save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert near(read_picture(tmp_path / "photo.jpg", 30, 40).pixels[15, 5], LEFT)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_animation_is_refused(tmp_path, suffix):
    halves().save(tmp_path / f"photo.{suffix}", save_all=True, append_images=[Image.new("RGB", (40, 30))], duration=90)
    with pytest.raises(HarnessError, match=rf"photo\.{suffix}: an animation of 2 frames"):
        read_picture(tmp_path / f"photo.{suffix}", 24, 24)


def test_missing_foreign_and_damaged_files_are_told(tmp_path):
    with pytest.raises(HarnessError, match=r"photo\.png: no such file"):
        read_picture(tmp_path / "photo.png", 24, 24)
    with pytest.raises(HarnessError, match="is a folder"):
        read_picture(tmp_path, 24, 24)
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    halves().save(tmp_path / "photo.gif")
    for name in ("text.png", "empty.jpg", "photo.gif"):
        with pytest.raises(HarnessError, match=rf"{name}: is no PNG, JPEG or WebP"):
            read_picture(tmp_path / name, 24, 24)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_damaged(tmp_path, kind, kept):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    (tmp_path / "photo").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * kept)])
    with pytest.raises(HarnessError, match=r"photo: (the picture is damaged|is no PNG)"):
        read_picture(tmp_path / "photo", 24, 24)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    halves().save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(HarnessError, match="too many pixels"):
        read_picture(tmp_path / "photo.png", 24, 24)
