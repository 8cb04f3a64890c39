"""A person's picture → the first frame of a clip: PNG, JPEG or WebP of any size, as uint8 `[H, W, 3]`.

A photo is turned as its EXIF says. Transparent parts become black, the ground of the moving digits and of padding in
video. The picture is scaled until it just covers the frame and cropped about the center, as source videos are. What
changes the picture visibly is said in `Picture.notes`, for the caller to show.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from attrs import frozen
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from harness.errors import HarnessError

FORMATS = ("PNG", "JPEG", "WEBP")
STILLS = ("MPO",)  # JPEGs of phones with previews behind the photo: their first image is the photo
TURNS = {  # EXIF orientation → what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@frozen(eq=False)
class Picture:
    """A picture of the asked size, uint8 `[H, W, 3]`, and what happened to it on the way, in sentences."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def read_picture(path: str | Path, height: int, width: int) -> Picture:
    """The picture in a file as a frame of `height` × `width` pixels.

    Raises:
        HarnessError: the file is missing, no picture, of another format, damaged, an animation, or too large to open.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise HarnessError(f"{path}: {what}; expected a PNG, JPEG or WebP picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its error, at twice the size, is told
            with Image.open(path, formats=FORMATS) as image:
                if getattr(image, "n_frames", 1) > 1 and image.format not in STILLS:
                    raise HarnessError(
                        f"{path}: an animation of {image.n_frames} frames; give one still picture"  # type: ignore[attr-defined]
                    )
                image.load()
                return fit_picture(image, height, width, str(path))
    except UnidentifiedImageError as error:
        raise HarnessError(f"{path}: is no PNG, JPEG or WebP picture; convert it to one of these") from error
    except Image.DecompressionBombError as error:
        raise HarnessError(f"{path}: too many pixels ({error}); scale it down first") from error
    except (OSError, SyntaxError, ValueError) as error:  # a damaged file raises any of them
        raise HarnessError(f"{path}: the picture is damaged ({error}); save or copy it again") from error


def fit_picture(image: Image.Image, height: int, width: int, name: str = "the picture") -> Picture:
    """A loaded picture of any size and color mode as a frame of `height` × `width`; `name` is for the notes."""
    notes = []
    image = _upright(image)
    image, transparent = _to_rgb(image)
    if transparent:
        notes.append(f"{name}: its transparent parts became black")
    if image.width < width or image.height < height:
        notes.append(f"{name}: only {image.width}×{image.height} pixels, enlarged to cover {width}×{height}")
    cut = 1 - min(image.width * height, image.height * width) / max(image.width * height, image.height * width)
    if cut > 0.1:
        notes.append(f"{name}: {cut:.0%} of it, at the edges, lies outside {width}×{height} and was cut off")
    fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return Picture(np.array(fitted, dtype=np.uint8), tuple(notes))


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says. Pillow's own function writes the other tags anew, and fails on odd ones."""
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture in 8-bit RGB over black, and whether anything of it was transparent."""
    if image.mode.startswith("I"):  # 16 bits of gray, which Pillow would clip at 255
        values = np.asarray(image).astype(np.int64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB"), False
    layers = image.convert("RGBA")
    black = Image.new("RGBA", layers.size, (0, 0, 0, 255))
    lowest = layers.getchannel("A").getextrema()[0]
    return Image.alpha_composite(black, layers).convert("RGB"), lowest < 255  # type: ignore[operator]
