"""Over 300 odd image files, made here, each with what must become of it: embedded, or quarantined with a word why."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.containers import TURNED, containers, turned
from extract.images.exif import ORIENTATION
from tests.support.album import encoded, picture


@dataclass(frozen=True)
class Odd:
    """A file's name and bytes.

    why: "" where it must be embedded, else what its quarantine row's detail must say, or "any". "either": whatever it
    is, it must not be a crash.
    """

    name: str
    data: bytes
    why: str = ""


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *before_data: bytes, interlace: int = 0
) -> bytes:
    """Return a PNG made by hand. rows: each with its filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(before_data)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def segment(marker: int, body: bytes) -> bytes:
    """Return one JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def tiff_tags(order: str, orientation: int, kind: int = 3) -> bytes:
    """Return EXIF's TIFF structure with one entry. order: "<" or ">"; kind: 3 is a SHORT."""
    value = struct.pack(
        f"{order}HH" if kind == 3 else f"{order}I", *((orientation, 0) if kind == 3 else (orientation,))
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}HHHI", 1, ORIENTATION, kind, 1) + value + b"\0\0\0\0"


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with further segments behind its start marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def odd_files() -> list[Odd]:
    """Return the corpus; every file differs from every other in its bytes."""
    return [*_whole(), *_truncated(), *_turned(), *_modes(), *_jpegs(), *_pngs(), *_not_images(), *_shapes(), *_more()]


def _whole() -> list[Odd]:
    twice = ("WebP, lossless, alpha", "MPO")  # of an opaque image the same bytes as their neighbours
    found = [Odd(f"container {name}", data) for name, data in containers(picture(1, 60)).items() if name not in twice]
    data = dict(containers(picture(2, 60)))
    suffixes = {"PNG": "jpg", "JPEG, 4:4:4": "png", "GIF, 256 colours": "jpg", "WebP, lossy": "jpeg", "TIFF": "png"}
    return found + [Odd(f"wrong suffix {name}.{suffix}", data[name]) for name, suffix in suffixes.items()]


def _truncated() -> list[Odd]:
    kinds = {
        "jpeg": {},
        "jpeg progressive": {"progressive": True},
        "png": {},
        "webp": {},
        "webp lossless": {"lossless": True},
        "bmp": {},
        "tiff": {"compression": "tiff_lzw"},
        "avif": {},
    }
    found = []
    for kind, options in kinds.items():
        data = encoded(picture(3, 90), kind.split()[0].upper(), **options)
        found += [Odd(f"{tenth} tenths of a {kind}", data[: len(data) * tenth // 10], "any") for tenth in range(1, 10)]
    return found


def _turned() -> list[Odd]:
    return [Odd(f"{kind} turned {o}", turned(picture(4, 50), kind, o)) for kind in TURNED for o in range(1, 9)]


def _modes() -> list[Odd]:
    image = picture(5, 40)
    found = [Odd(f"png of mode {mode}", encoded(image.convert(mode), "PNG")) for mode in ("1", "L", "LA", "P", "RGBA")]
    found += [
        Odd(f"tiff of mode {m}", encoded(image.convert(m), "TIFF")) for m in ("1", "L", "LA", "CMYK", "YCbCr", "LAB")
    ]
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    found += [Odd(f"16 bits in a {kind}", encoded(deep, kind)) for kind in ("PNG", "TIFF", "JPEG2000")]
    real = Image.fromarray(np.asarray(image.convert("L")).astype(np.float32))
    whole = Image.fromarray(np.asarray(image.convert("L")).astype(np.int32))
    found += [Odd("tiff of float32", encoded(real, "TIFF"), "32 bits a channel")]
    found += [Odd("tiff of int32", encoded(whole, "TIFF"), "32 bits a channel")]
    frames = [picture(seed, 40) for seed in (6, 7, 8)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        found.append(Odd(f"animated {kind}", data))
    clear = image.quantize(16)
    found += [Odd(f"{kind} with a clear colour", encoded(clear, kind, transparency=3)) for kind in ("GIF", "PNG")]
    grey = image.convert("L")
    found.append(Odd("grey png with a clear grey", encoded(grey, "PNG", transparency=100)))
    return found


def _jpegs() -> list[Odd]:
    plain = encoded(picture(9, 70))
    exif = [segment(0xE1, b"Exif\0\0" + body) for body in (tiff_tags("<", 6), tiff_tags(">", 6))]
    icc = [segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 3]) + bytes(65_000)) for i in range(3)]
    found = [
        Odd("exif little-endian", with_segments(plain, exif[0])),
        Odd("exif big-endian", with_segments(plain, exif[1])),
        Odd("exif behind three large segments", with_segments(plain, *icc, exif[0])),
        Odd("exif of 60 kB", with_segments(plain, segment(0xE1, b"Exif\0\0" + tiff_tags("<", 3) + bytes(60_000)))),
        Odd("exif of zeros", with_segments(plain, segment(0xE1, b"Exif\0\0" + bytes(30)))),
        Odd("exif cut short", with_segments(plain, segment(0xE1, b"Exif\0\0" + tiff_tags("<", 6)[:14]))),
        Odd("exif that points outside", with_segments(plain, segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"))),
        Odd("exif with 65,535 entries", with_segments(plain, segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))),
        Odd("xmp before exif", with_segments(plain, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), exif[0])),
        Odd("comment of 60 kB", with_segments(plain, segment(0xFE, b"x" * 60_000))),
        Odd("fill bytes before a marker", plain[:2] + b"\xff\xff\xff" + plain[2:]),
        Odd("2,000 empty segments", with_segments(plain, *[segment(0xFE, b"")] * 2000)),
        Odd("junk behind the end", plain + b"junk" * 100),
        Odd("junk before the start", b"junk" + plain, "no image format"),
        Odd("two pictures in one file", plain + encoded(picture(10, 20))),
    ]
    for value in (0, 9, 255, 65_535):
        body = b"Exif\0\0" + tiff_tags("<", value)
        found.append(Odd(f"orientation {value}", with_segments(plain, segment(0xE1, body))))
    found += [Odd(f"quality {q}", encoded(picture(11, 70), quality=q)) for q in (1, 30, 100)]
    found += [Odd(f"restart every {n}", encoded(picture(11, 70), restart_marker_blocks=n)) for n in (1, 7)]
    found += [Odd(f"subsampling {s}", encoded(picture(11, 70), subsampling=s)) for s in ("4:2:2", "4:2:0")]
    found.append(Odd("grey jpeg", encoded(picture(11, 70).convert("L"))))
    return found


def _pngs() -> list[Odd]:
    data = encoded(picture(12, 60), "PNG")
    body = data.index(b"IDAT") + 40
    found = [
        Odd(
            f"bit {bit} of the data flipped",
            data[: body + bit] + bytes([data[body + bit] ^ 4]) + data[body + bit + 1 :],
            "any",
        )
        for bit in range(0, 200, 20)
    ]
    rng = np.random.default_rng(13)
    for depth in (1, 2, 4):
        rows = b"".join(b"\0" + rng.bytes(40 * depth // 8) for _ in range(30))
        found.append(Odd(f"grey of {depth} bits", png(40, 30, depth, 0, rows)))
        found.append(
            Odd(f"grey of {depth} bits, one of them clear", png(40, 30, depth, 0, rows, chunk(b"tRNS", b"\0\1")))
        )
    for colour, channels in ((2, 3), (4, 2), (6, 4)):
        rows = b"".join(b"\0" + rng.bytes(40 * channels * 2) for _ in range(30))
        found.append(Odd(f"16 bits of colour type {colour}", png(40, 30, 16, colour, rows)))
    rows = b"".join(b"\0" + rng.bytes(120) for _ in range(30))
    turned_late = png(40, 30, 8, 2, rows)[:-12] + chunk(b"eXIf", tiff_tags(">", 8)) + chunk(b"IEND", b"")
    found += [
        Odd("eXIf behind the data", turned_late),
        Odd("a chunk that claims 4 GB", png(40, 30, 8, 2, rows, b"\xff\xff\xff\xfftEXt"), "any"),
        Odd("a palette that is not there", png(40, 30, 8, 3, b"".join(b"\0" + bytes(40) for _ in range(30))), "any"),
        Odd("too few rows", png(40, 30, 8, 2, rows[:1000]), "any"),
    ]
    return found


def _not_images() -> list[Odd]:
    rng = np.random.default_rng(14)
    found = [
        Odd("empty.jpg", b"", "the file is empty"),
        Odd("page.jpg", b"<html><body>404 Not Found</body></html>", "no image format"),
        Odd("text.png", b"just words\n" * 50, "no image format"),
        Odd("document.jpg", b"%PDF-1.7\n" + bytes(500), "no image format"),
        Odd("noise.jpg", rng.bytes(5000), "no image format"),
        Odd("zeros.jpg", bytes(5000), "no image format"),
        Odd("only a start.jpg", b"\xff\xd8\xff", "any"),
        Odd("only a signature.png", b"\x89PNG\r\n\x1a\n", "any"),
        Odd("only a signature.gif", b"GIF89a", "any"),
        Odd("only a riff.webp", b"RIFF\x10\0\0\0WEBPVP8 ", "any"),
        Odd("iphone.jpg", b"\0\0\0\x18ftypheic" + bytes(200), "pillow-heif"),
        Odd("vector.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n" + b"\n" * 100, "EPS"),
    ]
    found += [
        Odd(f"a {kind} file", encoded(picture(15, 32).convert("RGB"), kind), kind) for kind in ("PCX", "TGA", "ICO")
    ]
    return found


def _shapes() -> list[Odd]:
    found = [
        Odd(f"{w} x {h} {kind}", encoded(picture(16, 64).resize((w, h)), kind))
        for w, h in ((1, 1), (1, 300), (300, 1), (2, 2), (3000, 20))
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    ]
    side = struct.pack("<H", 20_000)
    bombs = {
        "png": png(20_000, 20_000, 8, 2, bytes(1000)),
        "gif": b"GIF89a" + side + side + b"\x80\0\0" + bytes(6) + b",\0\0\0\0" + side + side + b"\0\x02\x02D\x01\0;",
        "bmp": b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 2000, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(100),
    }
    whole = encoded(picture(17, 64))
    at = whole.index(b"\xff\xc0") + 5
    bombs["jpeg"] = whole[:at] + struct.pack(">HH", 20_000, 20_000) + whole[at + 4 :]
    return found + [Odd(f"bomb.{kind}", data, "declares 20000 x 20000 pixels") for kind, data in bombs.items()]


def _more() -> list[Odd]:
    rng = np.random.default_rng(18)
    image = picture(18, 80)
    inks = image.convert("CMYK")
    found = [Odd(f"cmyk jpeg, quality {q}", encoded(inks, quality=q)) for q in (40, 90)]
    data = {"gif": encoded(image, "GIF"), "cmyk jpeg": encoded(inks), "ppm": encoded(image, "PPM")}
    for kind, whole in data.items():
        found += [
            Odd(f"{tenth} tenths of a {kind}", whole[: len(whole) * tenth // 10], "any") for tenth in range(1, 10)
        ]
    pixels = np.asarray(image)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in pixels[y::dy, x::dx])
    found.append(Odd("png, interlaced (Adam7)", png(80, 80, 8, 2, rows, interlace=1)))
    icc = chunk(b"iCCP", b"huge\0\0" + zlib.compress(bytes(8_000_000)))
    whole = b"".join(b"\0" + row.tobytes() for row in pixels)
    found.append(Odd("png with a profile of 8 MB", png(80, 80, 8, 2, whole, icc)))
    found.append(Odd("png with 5,000 text chunks", png(80, 80, 8, 2, whole, *[chunk(b"tEXt", b"k\0v")] * 5000)))
    late = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(9_000_000)))
    found.append(Odd("png with a text that unfolds to 9 MB", png(80, 80, 8, 2, whole, late)))
    for kind, options in (("WEBP", {}), ("AVIF", {}), ("JPEG", {"progressive": True}), ("TIFF", {})):
        sound = encoded(image, kind, **options)
        for number in range(4):
            noise = bytearray(sound)
            noise[12:20] = rng.bytes(8)
            found.append(Odd(f"{kind.lower()} with noise {number} in its header", bytes(noise), "either"))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        sound = encoded(picture(19, 33), kind)
        found.append(Odd(f"{kind.lower()} with 100 kB of zeros behind it", sound + bytes(100_000)))
        found.append(Odd(f"{kind.lower()} behind a byte order mark", b"\xef\xbb\xbf" + sound, "no image format"))
    return found
