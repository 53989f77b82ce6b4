"""A photo as this model takes it: RGB, 0-255, float32 (1, S, S, 3). Needs Pillow and NumPy, and nothing else."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SIZE = 224  # S


def load(photo: Any, size: int = SIZE) -> np.ndarray:
    """Return the pixels of a path, bytes, an open file or a Pillow image: upright, alpha over white, (1, S, S, 3)."""
    if getattr(photo, "tile", None) and photo.format in ("JPEG", "MPO"):  # not decoded yet: as its file would be
        photo.fp.seek(0)
        photo = photo.fp
    photo = photo.read() if hasattr(photo, "read") else photo  # from where it stands; Pillow would begin at 0
    photo = io.BytesIO(photo) if isinstance(photo, bytes | bytearray | memoryview) else photo
    with photo.copy() if isinstance(photo, Image.Image) else Image.open(photo) as image:
        if image.format in ("JPEG", "MPO"):  # decoded at 1/2, 1/4 or 1/8, where that is still as large as S
            scale = max(s for s in (1, 2, 4, 8) if s == 1 or -(-min(image.size) // s) >= size)
            image.draft(image.mode, (image.width // scale, image.height // scale))
        image.load()  # a PNG's EXIF may stand behind its pixels
        image.info.pop("xmp", None), image.info.pop("XML:com.adobe.xmp", None)  # of orientations only EXIF's counts
        pixels = rgb(ImageOps.exif_transpose(image))
    bands = (Image.fromarray(pixels[..., band].astype(np.float32)) for band in range(3))
    resized = [np.asarray(band.resize((size, size), Image.Resampling.BILINEAR)) for band in bands]  # antialiased
    return np.rint(np.stack(resized, axis=-1))[None].clip(0, 255)


def rgb(image: Image.Image) -> np.ndarray:
    """Return an image's pixels as RGB over white, uint8 (h, w, 3); of 16 bits the upper 8. Errors: ValueError."""
    if image.mode in ("I", "F"):
        raise ValueError(f"{image.format or image.mode} with 32 bits a channel, or grey PPM with 16, is not supported")
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.float32)
    return np.rint(255 + (rgba[..., :3] - 255) * (rgba[..., 3:] / 255)).astype(np.uint8)
