"""A photo as this model takes it: RGB, 0-255, float32 (1, S, S, 3). Needs Pillow and NumPy, and nothing else."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps

SIZE = 32  # S


def load(file: Any, size: int = SIZE) -> np.ndarray:
    """Return the pixels of an image file, a path or a file object, upright, alpha over white, float32 (1, S, S, 3)."""
    with Image.open(file) as image:
        if image.format in ("JPEG", "MPO"):  # decoded at 1/2, 1/4 or 1/8, where that is still as large as S
            scale = max(s for s in (1, 2, 4, 8) if s == 1 or -(-min(image.size) // s) >= size)
            image.draft(image.mode, (image.width // scale, image.height // scale))
        image.load()  # a PNG's EXIF may stand behind its pixels
        image.info.pop("xmp", None), image.info.pop("XML:com.adobe.xmp", None)  # of orientations only EXIF's counts
        pixels = _rgb(ImageOps.exif_transpose(image))
    bands = (Image.fromarray(pixels[..., band].astype(np.float32)) for band in range(3))
    resized = [np.asarray(band.resize((size, size), Image.Resampling.BILINEAR)) for band in bands]  # antialiased
    return np.rint(np.stack(resized, axis=-1))[None].clip(0, 255)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F"):
        raise ValueError(f"{image.mode}: 32 bits a channel, whose range is not told")
    if image.mode.startswith("I;16"):  # of 16 bits the upper 8
        return np.repeat((np.asarray(image).astype(np.uint16) >> 8)[..., None], 3, axis=-1)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.float32)
    return np.rint(255 + (rgba[..., :3] - 255) * (rgba[..., 3:] / 255))
