"""Pictures for people: any file that the features were made from, small, upright, transparency over white, as JPEG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from extract.images import decode
from extract.images.decode import BadImage

QUALITY = 80


def load(path: Path | str, side: int, *, sha256: str | None = None) -> Image.Image:
    """Return the image of a file as RGB within side x side pixels, its shape kept, never enlarged.

    sha256: the digest that the bytes must have, so that no other file is ever shown in its place. Errors: BadImage.
    """
    data = decode.read(path, sha256=sha256)
    decode.refuse(data)
    try:
        with decode.opened(data) as image:
            image.draft("RGB", (side, side))  # libjpeg scales while it decodes
            small = _over_white(image)
            small.thumbnail((side, side))
            return ImageOps.exif_transpose(small)
    except Exception as error:  # OSError, SyntaxError, struct.error, EOFError and more, by plugin
        raise BadImage("undecodable", f"{error or type(error).__name__}"[:200]) from error


def encode(image: Image.Image) -> bytes:
    """Return an RGB image as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _over_white(image: Image.Image) -> Image.Image:
    """Return RGB, with the EXIF tags that say which way is up."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to white
        flat = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        flat = image.convert("RGB")
    flat.info = dict(image.info)
    return flat
