"""Pictures for people: any file that the features were made from, small, upright, transparency over white, as JPEG."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from extract.images import header, pillow

QUALITY = 80


def load(path: Path | str, side: int, *, sha256: str | None = None) -> Image.Image:
    """Return the image of a file as RGB within side x side pixels, its shape kept, never enlarged.

    sha256: the digest that the bytes must have, so that no other file is ever shown in its place. Errors: BadImage.
    """
    data = header.read(path, sha256=sha256)
    header.refuse(data)
    with header.opened(data) as image:
        image.draft("RGB", (side, side))  # libjpeg scales while it decodes
        small = Image.fromarray(pillow.rgb(image))
        small.info = image.info  # the EXIF tags, which say which way is up
        small.thumbnail((side, side))
        return ImageOps.exif_transpose(small)


def encode(image: Image.Image) -> bytes:
    """Return an RGB image as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
