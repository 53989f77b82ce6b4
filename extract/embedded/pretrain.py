"""Train the embedded backbone from generated pictures: plain Keras EfficientNet-B0, from random weights, on a CPU.

Two tasks share the 1280 features: naming the class of a picture, and describing it as computer vision did before
networks (gradient orientations on a grid, colours, contrasts), which is computed from the picture itself. The second is
MaskFeat's target (Wei et al. 2022) without its masks: classes alone teach a network to forget all else.

Everything is drawn from SEED and the step's number, so a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from extract import artifacts, cache, engines
from extract.__main__ import number
from extract.backbone import file_digest
from extract.embedded import generator
from extract.embedded.generator import HELD_OUT, SEED, TRAINED, Category, contact_sheet, label, picture
from extract.errors import DONE, InputError, guard

SIZES = (64, 80, 96, 128)  # input sizes that are tried on the held-out classes
READOUT_SCALE = 0.3  # Adam moves all 1280 weights of a readout at once: unscaled it leaps over what it aims at
PROBE_PICTURES, PROBE_TRAIN = 60, 40  # of each held-out class: drawn, and fitted on


@dataclass(frozen=True)
class Config:
    """A schedule. sides: input size in pixels and its share of the steps; small pictures first, which cost less."""

    steps: int = 7_300
    batch: int = 64
    sides: tuple[tuple[int, float], ...] = ((32, 0.40), (48, 0.35), (64, 0.25))
    pictures: int = 500  # of each trained class
    learning_rate: float = 6e-4
    warm_up: int = 100
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    description_weight: float = 4.0
    seed: int = SEED


def code_version() -> str:
    """Return what tells one generator's pictures from another's: the start of its file's SHA-256."""
    return file_digest(Path(generator.__file__))[:8]


def draw(categories: list[Category], folder: Path, n: int) -> list[np.ndarray]:
    """Return n pictures of each class, uint8 (n, SIDE, SIDE, 3), drawn into `folder` by all cores unless there."""
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.sweep(folder)
    files = [folder / f"{category.family}-{category.index:03d}.npy" for category in categories]
    todo = [(category, file, n) for category, file in zip(categories, files, strict=True) if not file.exists()]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for at, _ in enumerate(pool.map(_draw_class, todo), start=1):
            if at % 50 == 0 or at == len(todo):
                print(f"pictures  {at:,} of {len(todo):,} classes drawn into {folder}", flush=True)
    return [np.load(file, mmap_mode="r") for file in files]


def _draw_class(job: tuple[Category, Path, int]) -> None:
    category, path, n = job
    with artifacts.replacing(path) as partial, partial.open("wb") as file:
        np.save(file, np.stack([picture(category, number) for number in range(n)]))


def build(keras: Any, side: int | None = None) -> Any:
    """Return Keras' own EfficientNet-B0 up to its pooling, untrained, without dropout: (side, side, 3) -> (1280,)."""
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(side, side, 3)
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model


def describe(tf: Any, x: Any) -> Any:
    """Describe pictures x, (b, S, S, 3) in [0, 1], by 352 numbers, whatever S.

    At two scales: 8 gradient orientations (b, 4, 4, 8) over the local energy (Dalal and Triggs 2005) and the energy's
    logarithm; then mean colours (b, 4, 4, 3), a histogram of 8 hues weighted by chroma, and one of 8 lightnesses.
    """
    found = []
    grey = tf.reduce_mean(x, axis=-1, keepdims=True)
    for _ in range(2):
        dx = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
        dy = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
        # an edge's orientation has no sign, so it is the doubled angle that counts: (dx + i dy) ** 2
        cells = _to_grid(tf, _by_angle(tf, dx * dx - dy * dy, 2 * dx * dy, tf.sqrt(dx * dx + dy * dy + 1e-8)))
        energy = tf.reduce_sum(cells, axis=-1, keepdims=True)
        around = tf.reduce_mean(energy, axis=(1, 2), keepdims=True)
        found += [cells / (0.5 * energy + 0.5 * around + 0.02), tf.math.log(energy + 0.01)]
        grey = tf.nn.avg_pool2d(grey, 2, 2, "VALID")
    small = tf.nn.avg_pool2d(x, 2, 2, "VALID")
    found.append(_to_grid(tf, small))
    red, green, blue = tf.split(small, 3, axis=-1)
    first, second = red - green, (red + green) / 2 - blue
    chroma = tf.sqrt(first * first + second * second + 1e-8)
    found.append(tf.reduce_mean(_by_angle(tf, first, second, chroma), axis=(1, 2)))
    levels = tf.reshape(tf.linspace(0.0, 1.0, 8), (1, 1, 1, 8))
    lightness = tf.reduce_mean(small, axis=-1, keepdims=True)
    found.append(tf.reduce_mean(tf.nn.relu(1 - tf.abs(lightness - levels) * 7), axis=(1, 2)))
    return tf.concat([tf.reshape(each, (x.shape[0], -1)) for each in found], axis=1)


def _by_angle(tf: Any, first: Any, second: Any, length: Any) -> Any:
    """Spread each pixel's length over 8 bins by its vector's angle: (b, h, w, 1) -> (b, h, w, 8)."""
    centres = np.arange(8, dtype=np.float32) * (2 * np.pi / 8)
    norm = tf.sqrt(first * first + second * second + 1e-12)
    towards = (first * np.cos(centres) + second * np.sin(centres)) / norm
    return length * tf.nn.relu(towards) ** 2


def _to_grid(tf: Any, field: Any) -> Any:
    """Average a field over a grid of 4 x 4 cells, leaving out what does not divide at its right and lower edge."""
    cell = field.shape[1] // 4
    return tf.nn.avg_pool2d(field[:, : 4 * cell, : 4 * cell], cell, cell, "VALID")


class Trainer:
    """The network, its two readouts and their optimiser, one step at a time.

    losses: (steps, 3), of each step the loss of naming, that of describing, and the share named rightly.
    """

    def __init__(self, pictures: list[np.ndarray], config: Config) -> None:
        self.tf, self.keras = engines.load()
        self.pictures, self.config = pictures, config
        self.recipe = json.dumps({**asdict(config), "generator": code_version()})
        self.losses = np.full((config.steps, 3), np.nan)
        named = [
            [label(category, n) for n in range(len(each))] for category, each in zip(TRAINED, pictures, strict=True)
        ]
        names = sorted({name for each in named for name in each})
        self.labels = [np.array([names.index(name) for name in each]) for each in named]
        self.keras.utils.set_random_seed(config.seed)
        self.model = build(self.keras)
        self.mean, self.deviation = self._spread()
        self.centre = self.keras.layers.BatchNormalization(center=False, scale=False)
        self.naming = self.keras.layers.Dense(len(names), kernel_initializer="zeros")
        self.describing = self.keras.layers.Dense(len(self.mean), kernel_initializer="zeros")
        for layer in (self.centre, self.naming, self.describing):
            layer.build((None, 1280))
        schedule = self.keras.optimizers.schedules.CosineDecay(
            0.0, config.steps - config.warm_up, warmup_target=config.learning_rate, warmup_steps=config.warm_up
        )
        self.optimizer = self.keras.optimizers.AdamW(
            schedule, weight_decay=config.weight_decay, global_clipnorm=config.clip_norm
        )
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.trained = [v for part in (self.model, self.naming, self.describing) for v in part.trainable_variables]
        self.optimizer.build(self.trained)
        self.learn = self.tf.function(self._learn, autograph=False)

    def _spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of the descriptions, (352,) each, over some whole pictures of every class."""
        x = np.concatenate([each[:4] for each in self.pictures]).astype(np.float32) / 255
        found = describe(self.tf, self.tf.constant(x)).numpy()
        return found.mean(axis=0), found.std(axis=0) + 1e-3

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a step's pictures (b, SIDE, SIDE, 3) uint8, class numbers (b,), and boxes to cut out (b, 4)."""
        rng = np.random.default_rng((self.config.seed, 7, step))
        drawn = rng.integers(len(self.pictures), size=self.config.batch)  # families by their number of classes
        numbers = rng.integers(self.config.pictures, size=self.config.batch)
        x = np.stack([self.pictures[each][n] for each, n in zip(drawn, numbers, strict=True)])
        labels = np.array([self.labels[each][n] for each, n in zip(drawn, numbers, strict=True)])
        span = rng.uniform(0.65, 1.0, self.config.batch)
        top, left = rng.random((2, self.config.batch)) * (1 - span)
        right = left + span
        flip = (rng.random(self.config.batch) < 0.5) & np.array([TRAINED[n].family != "glyph" for n in drawn])
        left, right = np.where(flip, right, left), np.where(flip, left, right)
        return x, labels, np.stack([top, left, top + span, right], axis=1).astype(np.float32)

    def _learn(self, pictures: Any, labels: Any, boxes: Any, side: int) -> tuple[Any, Any, Any]:
        tf, weight = self.tf, self.config.description_weight
        x = tf.image.crop_and_resize(tf.cast(pictures, tf.float32), boxes, tf.range(boxes.shape[0]), (side, side))
        wanted = tf.clip_by_value((describe(tf, x / 255) - self.mean) / self.deviation, -3.0, 3.0)
        with tf.GradientTape() as tape:
            features = READOUT_SCALE * self.centre(self.model(x, training=True), training=True)
            logits = self.naming(features)
            named = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            described = tf.reduce_mean((self.describing(features) - wanted) ** 2)
            loss = named + weight * described
        self.optimizer.apply(tape.gradient(loss, self.trained))
        right = tf.reduce_mean(tf.cast(tf.argmax(logits, -1) == labels, tf.float32))
        return named, described, right

    def side(self, step: int) -> int:
        """Return the input size of a step."""
        ends = np.cumsum([share for _, share in self.config.sides]) * self.config.steps
        return next(
            (side for (side, _), end in zip(self.config.sides, ends, strict=True) if step < end),
            self.config.sides[-1][0],
        )

    def variables(self) -> list[Any]:
        """Return all that a checkpoint must hold."""
        parts = (self.model, self.centre, self.naming, self.describing, self.optimizer)
        return [variable for part in parts for variable in part.variables]

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint, whole or not at all."""
        arrays: dict[str, Any] = {f"v{n}": np.asarray(v) for n, v in enumerate(self.variables())}
        with artifacts.replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, step=step, recipe=self.recipe, losses=self.losses, **arrays)

    def restore(self, path: Path) -> int:
        """Go on from a checkpoint: return the number of steps it holds.

        Errors: InputError for another schedule's, and for a file that is damaged or no checkpoint.
        """
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                saved = dict(arrays)
            recipe = str(saved["recipe"])
            if recipe == self.recipe:
                for n, variable in enumerate(self.variables()):
                    variable.assign(saved[f"v{n}"])
                self.losses[:] = saved["losses"]
                return int(saved["step"])
        except Exception as error:  # numpy, zipfile, zlib and Keras: each says what is wrong with the file
            raise InputError(
                f"{path} is no checkpoint of this network: {error}",
                then="Delete it to start anew, or give another --work",
            ) from error
        raise InputError(
            f"{path} is of another schedule: {recipe}",
            rule=f"This one is {self.recipe}",
            then="Delete it to start anew, or give another --work",
        )


def batches(trainer: Trainer, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield every step's number and batch, the next one being made while this one is learnt from."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(trainer.batch, start)
        for step in range(start, stop):
            ready, coming = coming.result(), pool.submit(trainer.batch, step + 1)
            yield step, ready


def train(work: Path, pictures: list[np.ndarray], config: Config, stop: int) -> Trainer:
    """Train up to step `stop`, from work/checkpoint.npz where there is one, which is written every 500 steps."""
    trainer = Trainer(pictures, config)
    checkpoint = work / "checkpoint.npz"
    start = trainer.restore(checkpoint) if checkpoint.exists() else 0
    cost = np.cumsum([trainer.side(step) ** 2 for step in range(config.steps)])
    started = time.monotonic()
    for step, (shown, labels, boxes) in batches(trainer, start, stop):
        trainer.losses[step] = [float(each) for each in trainer.learn(shown, labels, boxes, trainer.side(step))]
        if (step + 1) % 50 == 0:
            named, described, right = trainer.losses[max(step - 49, 0) : step + 1].mean(axis=0)
            before = cost[start - 1] if start else 0
            left = (time.monotonic() - started) * (cost[stop - 1] - cost[step]) / (cost[step] - before)
            print(
                f"step {step + 1:,} of {config.steps:,}  naming {named:.3f} ({right:.1%} right)  describing "
                f"{described:.3f}  {trainer.side(step)} px  {left / 60:.0f} min left",
                flush=True,
            )
        if (step + 1) % 500 == 0 or step + 1 == stop:
            trainer.save(checkpoint, step + 1)
    return trainer


def held_out_accuracy(model: Any, pictures: list[np.ndarray]) -> dict[int, float]:
    """Return, by input size, the share of held-out classes' pictures that a logistic regression on features names.

    The first PROBE_TRAIN pictures of each class are fitted on, the others are asked.
    """
    tf, keras = engines.load()
    found = {}
    for size in SIZES:
        sized = build(keras, size)
        sized.set_weights([each.astype(np.float16).astype(np.float32) for each in model.get_weights()])  # as they ship
        X = np.stack([_features(tf, sized, each, size) for each in pictures])  # (classes, pictures, 1280)
        fitted, asked = (part.reshape(-1, X.shape[-1]) for part in (X[:, :PROBE_TRAIN], X[:, PROBE_TRAIN:]))
        scale = StandardScaler().fit(fitted)
        names = np.arange(len(pictures))
        probe = LogisticRegression(C=0.01, max_iter=300)
        probe.fit(scale.transform(fitted), np.repeat(names, PROBE_TRAIN))
        found[size] = float(probe.score(scale.transform(asked), np.repeat(names, len(asked) // len(names))))
        print(f"held out  {size} px: {found[size]:.1%} of {len(asked):,} pictures, {len(names)} classes", flush=True)
    return found


def _features(tf: Any, model: Any, pictures: np.ndarray, size: int) -> np.ndarray:
    """Return features (n, 1280) of uint8 pictures (n, SIDE, SIDE, 3), resized as the pass resizes photos."""
    x = tf.image.resize(pictures, (size, size), method="bilinear", antialias=True)
    return np.asarray(model(x, training=False))


def write_weights(path: Path, model: Any, input_size: int) -> None:
    """Save the weights as float16 by their names, and the input size; the Normalization keeps what Keras builds.

    Errors: ValueError for a weight that float16 cannot hold.
    """
    with np.errstate(over="ignore"):
        arrays: dict[str, Any] = {
            v.path: v.numpy().astype(np.float16) for v in model.weights if not v.path.startswith("normalization")
        }
    wild = [name for name, each in arrays.items() if not np.isfinite(each).all()]
    if wild:
        raise ValueError(f"float16 cannot hold {', '.join(wild)}")
    with artifacts.replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, input_size=input_size, **arrays)


def run(work: Path, config: Config, stop: int | None) -> int:
    """Draw, train, choose the input size on held-out classes, and write weights.npz and report.json into `work`."""
    version = code_version()
    with artifacts.lock(work / ".lock", str(work)):
        artifacts.sweep(work)
        with artifacts.replacing(work / "pictures.jpg") as partial:
            contact_sheet(partial)
        pictures = draw(TRAINED, work / f"pictures-{version}", config.pictures)
        held_out = draw(HELD_OUT, work / f"held-out-{version}", PROBE_PICTURES)
        trainer = train(work, pictures, config, min(stop or config.steps, config.steps))
        if stop:
            return DONE
        found = held_out_accuracy(trainer.model, held_out)
        best = max(found, key=found.__getitem__)
        write_weights(work / "weights.npz", trainer.model, best)
        report = {
            "recipe": json.loads(trainer.recipe),
            "versions": cache.provenance()["versions"],
            "held_out_accuracy": found,
            "held_out_pictures": len(HELD_OUT) * (PROBE_PICTURES - PROBE_TRAIN),
            "input_size": best,
            "last_losses": trainer.losses[-100:].mean(axis=0).tolist(),
        }
        artifacts.write_json(work / "report.json", report)
    print(f"weights   {work / 'weights.npz'}, input size {best}; they ship as extract/embedded/weights.npz")
    return DONE


def main(argv: list[str] | None = None) -> int:
    """Run `python -m extract.embedded.pretrain` and return its exit code (see extract/errors.py)."""
    parser = argparse.ArgumentParser(prog="python -m extract.embedded.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("pretrain.work"), help="folder of pictures and checkpoints")
    parser.add_argument("--stop", type=number(1), help="stop after this step and write no weights")
    flags = parser.parse_args(argv)
    return guard(lambda: run(flags.work, Config(), flags.stop))


if __name__ == "__main__":
    raise SystemExit(main())
