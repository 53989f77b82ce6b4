"""One photo in many containers and orientations: how far the features of each lie from those of its PNG.

`python -m benchmarks.containers [--photo FILE] [--backbone SPEC]` prints a table. Without a photo, a picture is drawn.
Lossless containers must give the very same pixels. What a lossy one may differ by is its own loss, not ours: the table
gives it beside the loss of pixels.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from extract.backbones import backbone
from extract.backbones.lite import LITE0
from extract.images import decode
from extract.images.exif import ORIENTATION

LOSSLESS = {  # name -> Pillow's format, mode and options
    "PNG": ("PNG", "RGB", {}),
    "PNG, alpha": ("PNG", "RGBA", {}),
    "BMP, 24 bits": ("BMP", "RGB", {}),
    "BMP, 32 bits": ("BMP", "RGBA", {}),
    "WebP, lossless": ("WEBP", "RGB", {"lossless": True}),
    "WebP, lossless, alpha": ("WEBP", "RGBA", {"lossless": True}),
    "TIFF": ("TIFF", "RGB", {}),
    "TIFF, LZW": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "TIFF, Deflate": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    "JPEG 2000, lossless": ("JPEG2000", "RGB", {"irreversible": False}),
    "PPM": ("PPM", "RGB", {}),
}
LOSSY = {
    "JPEG, 4:4:4": ("JPEG", "RGB", {"quality": 97, "subsampling": 0}),
    "JPEG, 4:2:0": ("JPEG", "RGB", {"quality": 97, "subsampling": 2}),
    "JPEG, progressive": ("JPEG", "RGB", {"quality": 97, "subsampling": 0, "progressive": True}),
    "JPEG, CMYK": ("JPEG", "CMYK", {"quality": 97, "subsampling": 0}),
    "MPO": ("MPO", "RGB", {"quality": 97, "subsampling": 0}),
    "WebP, lossy": ("WEBP", "RGB", {"quality": 97}),
    "AVIF": ("AVIF", "RGB", {"quality": 95}),
    "TIFF, JPEG": ("TIFF", "RGB", {"compression": "jpeg", "quality": 97}),
    "TIFF, CMYK": ("TIFF", "CMYK", {}),
    "GIF, 256 colours": ("GIF", "P", {}),
    "PNG, 256 colours": ("PNG", "P", {}),
}
TURNED = ("JPEG", "PNG", "WEBP", "TIFF")  # containers of the eight orientations
# what undoes each orientation's turn, so that a file with that tag is to be seen as the photo is
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image: Image.Image, kind: str, mode: str, options: dict[str, object]) -> bytes:
    """Return a file's bytes of an RGB image in another mode and container."""
    file = io.BytesIO()
    # a palette of the image's own colours; convert("P") would take the web's
    (image.quantize(256) if mode == "P" else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def containers(image: Image.Image) -> dict[str, bytes]:
    """Return the image's file bytes in every container of LOSSLESS and LOSSY."""
    return {name: encoded(image, *how) for name, how in (LOSSLESS | LOSSY).items()}


def turned(image: Image.Image, kind: str, orientation: int) -> bytes:
    """Return a file whose stored pixels are turned and whose EXIF orientation says how to turn them back."""
    stored = image.transpose(_STORED[orientation]) if orientation > 1 else image
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 97, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    file = io.BytesIO()
    stored.save(file, kind, exif=tags, **options)
    return file.getvalue()


def drawn(width: int = 500, height: int = 380) -> Image.Image:
    """Return a picture without symmetry: waves of colour and a disc."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:height, 0:width] / width
    waves = [np.sin(rng.uniform(3, 19) * x + rng.uniform(3, 19) * y + rng.uniform(0, 6)) for _ in range(3)]
    pixels = 127 + 100 * np.stack(waves, axis=-1)
    pixels[(x - 0.3) ** 2 + (y - 0.2) ** 2 < 0.02] = (230, 40, 90)
    return Image.fromarray(pixels.astype(np.uint8))


def main() -> None:
    """Print a row for each container and orientation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--backbone", default=LITE0)
    flags = parser.parse_args()
    image = ImageOps.exif_transpose(Image.open(flags.photo)).convert("RGB") if flags.photo else drawn()
    files = containers(image)
    files |= {f"{kind}, orientation {o}": turned(image, kind, o) for kind in TURNED for o in range(1, 9)}
    network = backbone.load(backbone.resolve(flags.backbone))
    size = network.input_size
    pixels = {name: decode.from_bytes(data, size) for name, data in files.items()}
    features = {name: network.embed(x[None])[0] for name, x in pixels.items()}
    x, f = pixels["PNG"].astype(int), features["PNG"]
    print("| file | decoded by | bytes | pixels: largest, mean difference | features: difference / largest | cosine |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, data in files.items():
        difference = np.abs(pixels[name].astype(int) - x)
        g = features[name]
        cosine = float(f @ g / (np.linalg.norm(f) * np.linalg.norm(g)))
        by = "TensorFlow" if decode.decoded(data, size)[1] else "Pillow"
        print(
            f"| {name} | {by} | {len(data):,} | {difference.max()}, {difference.mean():.2f} | "
            f"{np.abs(f - g).max() / np.abs(f).max():.1e} | {cosine:.6f} |"
        )


if __name__ == "__main__":
    main()
