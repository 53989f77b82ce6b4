"""The pictures that the embedded backbone is trained on: five families of classes, all drawn here from a seed.

glyph    letters and digits in the typefaces that matplotlib ships, turned, sheared, often at low resolution
fractal  iterated function systems (Kataoka et al. 2020, "Pre-training without natural images")
texture  24 kinds of pattern, each fine and coarse, on the whole picture or in a blob
body     arrangements of shaded solids, jointed: the arrangement is the class
beast    four-legged bodies or their portraits; proportions, ears and the coat's pattern are the class

Grounds are plain, gradients, two-colour fields, noise with a natural picture's 1/f spectrum, or dead leaves (Lee,
Mumford and Huang 2001). Colours never decide a class. Picture `i` of a class depends on (SEED, class, i) alone, so any
slice of the data can be drawn anywhere, in any order.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.spatial import cKDTree

SEED = 3
SIDE = 80  # pixels; training cuts out 65 to 100 % of it and resizes that
GREEK = "αβγδθλξπσφψω"  # held out; some, such as ω, come near a letter that is trained


@dataclass(frozen=True)
class Category:
    """A class of pictures: its family and its number there."""

    family: str
    index: int

    @property
    def name(self) -> str:
        """What to print."""
        return f"{self.family}-{(GLYPHS[self.index] if self.family == 'glyph' else self.index)}"


GLYPHS = string.digits + string.ascii_letters + GREEK
_TRAINED = {"glyph": 62, "fractal": 100, "texture": 40, "body": 40, "beast": 48}
_HELD_OUT = {"glyph": len(GREEK), "fractal": 20, "texture": 8, "body": 10, "beast": 12}
TRAINED = [Category(family, index) for family, n in _TRAINED.items() for index in range(n)]
HELD_OUT = [Category(f, _TRAINED[f] + index) for f, n in _HELD_OUT.items() for index in range(n)]


def picture(category: Category, number: int) -> np.ndarray:
    """Draw picture `number` of a class, uint8 (SIDE, SIDE, 3)."""
    family = list(_TRAINED).index(category.family)
    rng = default_rng((SEED, family, category.index, number))
    pixels = _FAMILIES[category.family](category.index, rng)
    return (_camera(pixels, rng, coarse=category.family == "glyph") * 255).astype(np.uint8)


def label(category: Category, number: int) -> str:
    """Return what picture `number` is to be named: its class, but of a body its limbs, of a beast its ears and view.

    Naming each of 88 arrangements and species took more pictures than a CPU shows in the time.
    """
    if category.family == "body":
        return f"body with {_trunk(default_rng((SEED, 3, category.index)))[1]} limbs"
    if category.family == "beast":
        ears = default_rng((SEED, 4, category.index)).integers(4)
        view = "portrait" if _is_portrait(default_rng((SEED, 4, category.index, number))) else "whole"
        return f"beast with ears {ears}, {view}"
    return category.name


def contact_sheet(path: Path) -> None:
    """Save one picture of every class, the held-out ones last, as one JPEG."""
    categories, columns = TRAINED + HELD_OUT, 24
    rows = -(-len(categories) // columns)
    sheet = Image.new("RGB", (columns * SIDE, rows * SIDE))
    for at, category in enumerate(categories):
        sheet.paste(Image.fromarray(picture(category, 0)), (at % columns * SIDE, at // columns * SIDE))
    sheet.save(path, "JPEG", quality=80)


# ---- what every family draws with. A picture is float32 (SIDE, SIDE, 3) in [0, 1], a field float32 (SIDE, SIDE)

_Y, _X = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)


def _colours(rng: Generator, n: int) -> np.ndarray:
    """Return n colours, (n, 3), grey, muted or strong, of which the first two differ in lightness."""
    while True:
        grey = rng.random((n, 1))
        tint = (rng.random((n, 3)) - 0.5) * rng.choice([0.0, 0.25, 0.5, 1.0], p=[0.2, 0.3, 0.3, 0.2])
        colours = np.clip(grey + tint, 0, 1).astype(np.float32)
        if n < 2 or abs(colours[0].mean() - colours[1].mean()) > 0.2:
            return colours


def _noise(rng: Generator, slope: float, stretch: float = 1.0) -> np.ndarray:
    """Return noise in [0, 1] whose amplitude falls as frequency ** -slope; stretch > 1 lengthens it along x."""
    n = SIDE + 16  # cropped, so that it does not wrap around
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], stretch * np.fft.rfftfreq(n)[None])
    frequency[0, 0] = 1
    phases = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    spectrum = phases * frequency**-slope
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (n, n))[:SIDE, :SIDE].astype(np.float32)
    return np.clip(0.5 + 0.22 * field / field.std(), 0, 1)


def _mix(field: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the picture that is `low` where the field is 0 and `high` where it is 1; either may be a colour."""
    return low + (high - low) * field[..., None]


def _step(field: np.ndarray, sharpness: float) -> np.ndarray:
    """Turn a field into a soft yes or no about 0.5."""
    return np.clip((field - 0.5) * sharpness + 0.5, 0, 1)


def _turned(rng: Generator, warp: float) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates u and v in about [-1, 1], turned by a random angle and bent by smooth noise."""
    angle = rng.uniform(0, np.pi)
    u = np.cos(angle) * _X + np.sin(angle) * _Y + rng.uniform(-1, 1)
    v = np.cos(angle) * _Y - np.sin(angle) * _X + rng.uniform(-1, 1)
    return u + warp * (_noise(rng, 2.5) - 0.5), v + warp * (_noise(rng, 2.5) - 0.5)


def _dead_leaves(rng: Generator) -> np.ndarray:
    """Return a picture of opaque shapes on one another, their sizes falling as size ** -3."""
    image = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    corners = int(rng.choice([3, 4, 5, 40]))
    around = np.arange(corners) * 2 * np.pi / corners
    colours = (_colours(rng, 24) * 255).astype(int)
    for radius in 4 * rng.random(90) ** -0.5:
        angle = around + rng.uniform(0, 7)
        stretch = rng.uniform(0.5, 1)
        at = rng.uniform(0, SIDE, 2)
        outline = np.stack([at[0] + radius * np.cos(angle), at[1] + radius * stretch * np.sin(angle)], axis=1)
        draw.polygon([tuple(point) for point in outline.tolist()], fill=tuple(colours[rng.integers(24)].tolist()))
    return np.asarray(image, np.float32) / 255


def _ground(rng: Generator) -> np.ndarray:
    """Return a picture of nothing in particular, mostly out of focus or of low contrast, as behind a subject."""
    ground = _scene(rng)
    if rng.random() < 0.4:
        image = Image.fromarray((ground * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))
        ground = np.asarray(image, np.float32) / 255
    mean = ground.mean(axis=(0, 1))
    return mean + (ground - mean) * rng.uniform(0.2, 1.0)


def _scene(rng: Generator) -> np.ndarray:
    """Return a ground in focus; half of them have a natural picture's statistics."""
    low, high = _colours(rng, 2)
    match rng.integers(6):
        case 0:
            return _mix(np.full_like(_X, 0.5), low, high)
        case 1:
            angle = rng.uniform(0, 2 * np.pi)
            return _mix((np.cos(angle) * _X + np.sin(angle) * _Y) / 2.9 + 0.5, low, high)
        case 2:
            return _mix(_step(_noise(rng, 2.0), rng.uniform(2, 20)), low, high)
        case 3:
            return _dead_leaves(rng)
        case _:
            tints = np.stack([_noise(rng, 1.2) for _ in range(3)], axis=-1) - 0.5
            shared = _mix(_noise(rng, rng.uniform(0.8, 1.8)), low, high)
            return np.clip(shared + rng.uniform(0, 0.4) * tints, 0, 1)


def _camera(pixels: np.ndarray, rng: Generator, coarse: bool) -> np.ndarray:
    """Photograph a picture: light, blur or low resolution, sensor noise, now and then without colour."""
    if rng.random() < 0.1:
        pixels = np.repeat(pixels.mean(axis=-1, keepdims=True), 3, axis=-1)
    pixels = np.clip(pixels, 0, 1) ** rng.uniform(0.6, 1.3) * rng.uniform(0.8, 1.0)
    image = Image.fromarray((pixels * 255).astype(np.uint8))
    how = rng.random()
    if how < (0.4 if coarse else 0.1):
        side = int(rng.integers(8 if coarse else 24, 40))
        image = image.resize((side, side), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    elif how < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
    pixels = np.asarray(image, np.float32) / 255
    if rng.random() < 0.3:
        pixels = pixels + rng.normal(scale=rng.uniform(0, 0.06), size=pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 1)


# ---- glyphs


@cache
def _fonts() -> list[ImageFont.FreeTypeFont]:
    """Return the typefaces that matplotlib ships and that have every glyph."""
    import matplotlib

    files = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf"))
    fonts = [ImageFont.truetype(file, 48) for file in files if "Display" not in file.name]
    assert len(fonts) >= 12, f"matplotlib's typefaces are not where they were: {len(fonts)} found"
    return fonts


def _glyph(index: int, rng: Generator) -> np.ndarray:
    fonts = _fonts()
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).text((SIDE / 2, SIDE / 2), GLYPHS[index], 255, fonts[rng.integers(len(fonts))], anchor="mm")
    angle, shear = rng.normal(scale=0.15), rng.normal(scale=0.15)
    zoom_x, zoom_y = rng.uniform(0.6, 1.35, 2) ** -1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([zoom_x, zoom_y])
    offset = SIDE / 2 - matrix @ (SIDE / 2 + rng.uniform(-8, 8, 2))
    values = [*matrix[0], offset[0], *matrix[1], offset[1]]
    mask = mask.transform((SIDE, SIDE), Image.Transform.AFFINE, values, Image.Resampling.BILINEAR)
    if rng.random() < 0.3:  # heavier or lighter strokes
        mask = mask.filter((ImageFilter.MaxFilter, ImageFilter.MinFilter)[rng.integers(2)](3))
    ink, paper = _colours(rng, 2)
    ground = _ground(rng) if rng.random() < 0.4 else _mix(_noise(rng, 2.0) * rng.uniform(0, 0.3), paper, ink)
    return _mix(np.asarray(mask, np.float32) / 255, ground, ink)


# ---- fractals


@cache
def _attractor(index: int) -> np.ndarray:
    """Return points (n, 2) of an iterated function system, centred, of unit spread."""
    for attempt in range(1000):
        rng = default_rng((SEED, 1, index, attempt))
        maps = rng.uniform(-1, 1, (rng.integers(2, 6), 2, 3))
        weights = np.abs(np.linalg.det(maps[:, :, :2])) + 1e-3
        spectral = np.linalg.norm(maps[:, :, :2], 2, axis=(1, 2))
        if spectral.max() > 1.0 or weights.sum() < 0.5:
            continue
        points = rng.uniform(-1, 1, (400, 2))
        kept = []
        for step in range(80):
            choice = maps[rng.choice(len(maps), 400, p=weights / weights.sum())]
            points = np.einsum("nij,nj->ni", choice[:, :, :2], points) + choice[:, :, 2]
            if step >= 20:
                kept.append(points)
        cloud = np.concatenate(kept)
        cloud = (cloud - cloud.mean(axis=0)) / (cloud.std(axis=0).max() + 1e-9)
        if cloud.std(axis=0).min() > 0.4:
            return cloud
    raise AssertionError(f"no attractor for fractal {index}")


def _fractal(index: int, rng: Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ (np.eye(2) + rng.normal(scale=0.12, size=(2, 2))) * rng.uniform(0.14, 0.26) * SIDE
    columns, rows = (_attractor(index) @ matrix.T + SIDE / 2 + rng.uniform(-6, 6, 2)).astype(int).T
    inside = (columns >= 0) & (columns < SIDE) & (rows >= 0) & (rows < SIDE)
    hits = np.bincount(rows[inside] * SIDE + columns[inside], minlength=SIDE * SIDE).reshape(SIDE, SIDE)
    density = np.clip(np.log1p(hits) / np.log1p(8), 0, 1).astype(np.float32)
    ink, paper, glow = _colours(rng, 3)
    ground = _ground(rng) if rng.random() < 0.5 else np.broadcast_to(paper, (SIDE, SIDE, 3))
    return _mix(np.minimum(density * 2, 1), ground, _mix(density, glow, ink))


# ---- textures: each kind maps coordinates u and v, frequency f and a generator to a field in [0, 1]


def _wave(t: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(2 * np.pi * t)


def _saw(t: np.ndarray) -> np.ndarray:
    return t - np.floor(t)


def _cells(u: np.ndarray, v: np.ndarray, f: float, rng: Generator, jitter: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances to the nearest and the second nearest of f x f scattered points, in units of their gap."""
    grid = np.stack(np.meshgrid(np.arange(-2.5, 2.5, 1 / f), np.arange(-2.5, 2.5, 1 / f)), axis=-1).reshape(-1, 2)
    points = grid + rng.uniform(-0.5, 0.5, grid.shape) * jitter / f
    near, _ = cKDTree(points).query(np.stack([u.ravel(), v.ravel()], axis=1), k=2)
    first, second = near.T.reshape(2, SIDE, SIDE).astype(np.float32) * f
    return first, second


def _bricks(u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    row = np.floor(v * f)
    return np.minimum(np.abs(_saw(v * f) - 0.5), 2 * np.abs(_saw(u * f / 2 + row % 2 / 2) - 0.5)) * 2


def _scales(u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    row = np.floor(v * f)
    return np.hypot(_saw(u * f + row % 2 / 2) - 0.5, _saw(v * f))


def _weave(u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    over = (np.floor(u * f) + np.floor(v * f)) % 2
    return over * np.abs(np.sin(np.pi * v * f)) + (1 - over) * np.abs(np.sin(np.pi * u * f)) * 0.6


_Kind = Callable[[np.ndarray, np.ndarray, float, Generator], np.ndarray]
_KINDS: list[_Kind] = [
    lambda u, v, f, rng: _wave(u * f),
    lambda u, v, f, rng: _step(_wave(u * f), 12),
    lambda u, v, f, rng: _step(_wave(u * f) + 0.35, 12),
    lambda u, v, f, rng: _step(0.5 + (_wave(u * f) - 0.5) * (_wave(v * f) - 0.5) * 4, 6),
    lambda u, v, f, rng: _wave(u * f) * _wave(v * f),
    lambda u, v, f, rng: _step(1.1 - np.hypot(_saw(u * f) - 0.5, _saw(v * f) - 0.5) * 2, 8),
    lambda u, v, f, rng: _wave(np.hypot(u, v) * f),
    lambda u, v, f, rng: _wave(u * f + 0.35 * np.sin(2 * np.pi * v * f / 2)),
    lambda u, v, f, rng: _step(_wave(u * f + np.abs(_saw(v * f / 2) - 0.5) * 1.6), 6),
    lambda u, v, f, rng: _step(_bricks(u, v, f) + 0.3, 8),
    lambda u, v, f, rng: _scales(u, v, f),
    lambda u, v, f, rng: _weave(u, v, f),
    lambda u, v, f, rng: _wave(u * f) / 2 + _step(_wave(v * f * 0.7), 12) / 2,
    lambda u, v, f, rng: _saw(u * f),
    lambda u, v, f, rng: np.clip(_cells(u, v, f, rng, 1.0)[0] * 1.2, 0, 1),
    lambda u, v, f, rng: _step(np.subtract(*_cells(u, v, f, rng, 1.0)[::-1]) * 1.5 + 0.2, 6),
    lambda u, v, f, rng: _step(1 - _cells(u, v, f, rng, 0.8)[0] * 1.3 + 0.1, 8),
    lambda u, v, f, rng: np.clip(1.3 * np.abs(_wave(u * f / 2 + 2.5 * _noise(rng, 2.0)) - 0.5) * 2, 0, 1),
    lambda u, v, f, rng: _wave(u * f / 2 + 0.5 * _noise(rng, 1.5, stretch=4)),
    lambda u, v, f, rng: np.abs(_noise(rng, 1.4) - 0.5) * 3,
    # the last four kinds are held out
    lambda u, v, f, rng: _step(_wave((u + v) * f) * _wave((u - v) * f) + 0.25, 8),
    lambda u, v, f, rng: np.maximum(_wave(u * f), _wave(0.5 * u * f + 0.87 * v * f)) ** 2,
    lambda u, v, f, rng: _wave(np.arctan2(v, u) / (2 * np.pi) * np.round(f * 2) + np.hypot(u, v) * f / 2),
    lambda u, v, f, rng: _step(_wave(u * f) + 0.3 * _noise(rng, 0.2) - 0.15, 4),
]


def _texture_field(index: int, rng: Generator) -> np.ndarray:
    """Return the field of a texture class: even numbers are coarse, odd ones fine."""
    f = rng.uniform(1.3, 2.6) if index % 2 == 0 else rng.uniform(4.0, 7.0)  # cycles per half picture
    u, v = _turned(rng, warp=rng.choice([0.0, 0.3, 0.6]) / f)
    return np.clip(_KINDS[index // 2](u, v, f, rng), 0, 1)


def _texture(index: int, rng: Generator) -> np.ndarray:
    low, high = _colours(rng, 2)[rng.permutation(2)]
    field = np.clip(_texture_field(index, rng) + rng.uniform(0, 0.3) * (_noise(rng, 1.2) - 0.5), 0, 1)
    pixels = _mix(field, low, high) * (1 - rng.uniform(0, 0.5) * _noise(rng, 2.2)[..., None])
    if rng.random() < 0.6:
        return pixels
    blob = _step(1.1 - np.hypot(_X, _Y) * rng.uniform(0.6, 1.0) + 0.6 * (_noise(rng, 2.2) - 0.5), 15)
    return _mix(blob, _ground(rng), pixels)


# ---- bodies: shaded solids, painted back to front


@dataclass
class Solid:
    """A shaded superellipse: centre, half axes and angle in half pictures and radians; power 2 is round, 6 a box."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0
    power: float = 2.0
    coat: int = 0  # which of the painter's coats


def _paint(pixels: np.ndarray, solids: list[Solid], coats: list[np.ndarray], rng: Generator) -> np.ndarray:
    """Paint solids over a picture under one light; a coat is a colour or a picture."""
    towards = rng.uniform(0, 2 * np.pi)
    ambient = rng.uniform(0.5, 0.9)
    for solid in solids:
        dx, dy = _X - solid.x, _Y - solid.y
        cos, sin = np.cos(solid.angle), np.sin(solid.angle)
        along, across = (cos * dx + sin * dy) / solid.a, (cos * dy - sin * dx) / solid.b
        if solid.power == 2:
            radius = along**2 + across**2
        else:
            radius = np.abs(along) ** solid.power + np.abs(across) ** solid.power
        edge = min(solid.a, solid.b) * SIDE / 4
        cover = np.clip((1 - radius) * edge + 0.5, 0, 1)
        slope = (along * np.cos(towards - solid.angle) + across * np.sin(towards - solid.angle)) * 0.7
        light = ambient + (1 - ambient) * np.clip(0.6 * np.sqrt(np.clip(1 - radius, 0, 1)) + slope, -0.5, 1)
        pixels = _mix(cover, pixels, coats[solid.coat] * light[..., None])
    return pixels


def _coat(kind: int, rng: Generator) -> np.ndarray:
    """Return a picture to clothe a solid in: plain, or patterned with the texture class of that number."""
    low, high = _colours(rng, 2)
    field = 0.4 * _noise(rng, 1.0) if kind < 0 else 0.8 * _texture_field(kind, rng)
    return _mix(field, low, high)


def _place(solids: list[Solid], rng: Generator) -> list[Solid]:
    """Mirror, turn, scale and shift a body as a whole."""
    angle, zoom, mirror = rng.normal(scale=0.15), rng.uniform(0.75, 1.2), rng.choice([-1, 1])
    right, down = rng.uniform(-0.2, 0.2, 2)
    for s in solids:
        x, y = mirror * s.x, s.y
        s.x = zoom * (np.cos(angle) * x - np.sin(angle) * y) + right
        s.y = zoom * (np.sin(angle) * x + np.cos(angle) * y) + down
        s.a, s.b, s.angle = s.a * zoom, s.b * zoom, mirror * s.angle + angle
    return solids


def _trunk(plan: Generator) -> tuple[Solid, int]:
    """Return a body's trunk and how many limbs it has."""
    trunk = Solid(0, 0, plan.uniform(0.2, 0.4), plan.uniform(0.2, 0.5), plan.uniform(0, 3), plan.choice([2.0, 6.0]))
    return trunk, int(plan.integers(2, 6))


def _body(index: int, rng: Generator) -> np.ndarray:
    plan = default_rng((SEED, 3, index))  # the class
    trunk, limbs = _trunk(plan)
    solids = [trunk]
    for _ in range(limbs):
        joint, length = plan.uniform(0, 2 * np.pi), plan.uniform(0.15, 0.45)
        bend, breadth, power = plan.normal(scale=0.5), plan.uniform(0.06, 0.2), plan.choice([2.0, 6.0])
        angle = joint + bend + rng.normal(scale=0.2)
        x = 0.9 * trunk.a * np.cos(joint) + length * np.cos(angle)
        y = 0.9 * trunk.b * np.sin(joint) + length * np.sin(angle)
        x, y = (np.cos(trunk.angle) * x - np.sin(trunk.angle) * y, np.sin(trunk.angle) * x + np.cos(trunk.angle) * y)
        limb = Solid(x, y, length, breadth, angle + trunk.angle, power, coat=int(plan.integers(2)))
        solids.insert(plan.integers(len(solids) + 1), limb)
    kinds = [int(rng.integers(40)) if rng.random() < 0.4 else -1 for _ in range(2)]
    return _paint(_ground(rng), _place(solids, rng), [_coat(kind, rng) for kind in kinds], rng)


def _ears(kind: int, x: float, y: float, r: float, long: float) -> list[Solid]:
    """Return a head's ears: pointed, hanging, round or upright."""
    shape = [(0.38, 0.2, 0.5, 1.2), (0.55, 0.2, 1.15, 1.45), (0.3, 0.3, 0.75, 1.57), (0.8, 0.17, 0.35, 1.35)][kind]
    a, b, out, turn = shape
    return [
        Solid(
            x + side * r * (0.35 + out * 0.6),
            y - r * (1.05 - (out > 1) * 1.0 + (kind == 3) * 0.4),
            r * a * long,
            r * b,
            side * (np.pi - turn) if out < 1 else side * turn,
            1.4 if kind == 0 else 2.0,
        )
        for side in (-1, 1)
    ]


def _is_portrait(rng: Generator) -> bool:
    """Decide the view of a beast, before anything else is drawn from rng."""
    return bool(rng.random() < 0.5)


def _beast(index: int, rng: Generator) -> np.ndarray:
    portrait = _is_portrait(rng)
    plan = default_rng((SEED, 4, index))  # the species
    ears, coat = int(plan.integers(4)), int(plan.choice([-1, 2, 3, 10, 11, 28, 29, 32, 33, 36, 38]))
    long, leg, neck, tail = plan.uniform(0.8, 1.3), plan.uniform(0.15, 0.5), plan.uniform(0, 0.3), plan.uniform(0, 0.6)
    head, snout, girth = plan.uniform(0.16, 0.3), plan.uniform(0.0, 1.0), plan.uniform(0.15, 0.3)
    length, bend = plan.uniform(0.3, 0.6), plan.uniform(-1.2, 1.0)
    if portrait:
        r = rng.uniform(0.42, 0.58)
        tilt = rng.normal(scale=0.08)
        nose = 0.25 * r + 0.2 * r * snout
        eyes = 0.3 + 0.12 * np.sin(7 * head)
        solids = [
            Solid(0, 1.1, r * 1.1, 0.7),
            *_ears(ears, 0, 0, r, long),
            Solid(0, 0, r, r * (0.85 + snout * 0.2)),
            *(Solid(tilt + s * r * eyes, -0.15 * r, r * 0.14, r * 0.11, 0, 2, 1) for s in (-1, 1)),
            Solid(tilt * 1.5, nose + 0.1 * r, r * (0.5 - 0.1 * snout), r * (0.3 + 0.15 * snout), 0, 2, 2),
            Solid(tilt * 1.8, nose, r * 0.15, r * 0.1, 0, 2, 1),
        ]
    else:  # the whole animal, from its side
        x, y = length * 0.95, -girth * 0.6 - neck
        stride = rng.normal(scale=0.15, size=4)
        legs = [
            Solid(
                s * length * 0.75 - 0.03 * far + np.sin(t) * leg / 2, girth * 0.6 + leg / 2, leg / 2 + 0.1, 0.065,
                np.pi / 2 - t,
            )
            for s, far, t in zip((1, -1, 1, -1), (1, 1, 0, 0), stride, strict=True)
        ]  # fmt: skip
        wag = bend + rng.normal(scale=0.25)
        solids = [
            *legs[:2],
            Solid(-length - np.cos(wag) * tail / 2, -0.3 * girth + np.sin(wag) * tail / 2, tail / 2 + 0.05, 0.05, -wag),
            Solid(0, 0, length, girth),
            *legs[2:],
            Solid(length * 0.8, (y - girth * 0.2) / 2, 0.12 + neck / 2, 0.13, -np.pi / 3),
            *_ears(ears, x, y, head, long),
            Solid(x, y, head, head * 0.9),
            Solid(x + head * (0.5 + 0.5 * snout), y + head * 0.25, head * (0.4 + 0.4 * snout), head * 0.4, 0.1, 2, 2),
            Solid(x + head * (0.9 + 0.9 * snout), y + head * 0.2, head * 0.15, head * 0.12, 0, 2, 1),
            Solid(x + head * 0.25, y - head * 0.2, head * 0.14, head * 0.12, 0, 2, 1),
        ]
    fur = _coat(coat, rng)
    muzzle = np.clip(fur * 0.3 + 0.7 * rng.uniform(0.2, 1), 0, 1)
    return _paint(_ground(rng), _place(solids, rng), [fur, np.full(3, 0.05, np.float32), muzzle], rng)


_FAMILIES = {"glyph": _glyph, "fractal": _fractal, "texture": _texture, "body": _body, "beast": _beast}
