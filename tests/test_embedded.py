"""The backbone that ships: its pictures are seeded, its training repeats and resumes, its weights are trained."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from extract import backbone, engines
from extract.embedded import generator, pretrain
from extract.embedded.generator import HELD_OUT, SIDE, TRAINED, picture
from extract.errors import BackboneError, InputError

tensorflow = pytest.mark.tensorflow
TINY = pretrain.Config(steps=4, batch=4, sides=((32, 0.5), (40, 0.5)), pictures=2, warm_up=1)


def test_a_picture_depends_on_its_class_and_number_alone():
    """Drawn again, in any order, the same bytes; another number, another picture."""
    some = [next(c for c in TRAINED if c.family == family) for family in generator._FAMILIES]
    first = [picture(category, 5) for category in some]
    again = [picture(category, 5) for category in reversed(some)][::-1]
    for one, two, category in zip(first, again, some, strict=True):
        assert one.shape == (SIDE, SIDE, 3)
        assert one.dtype == np.uint8
        assert one.std() > 5, category.name  # there is something to see
        np.testing.assert_array_equal(one, two)
        assert (picture(category, 6) != one).mean() > 0.5


def test_every_held_out_class_can_be_drawn_and_has_its_own_content():
    """What the input size is chosen on was not learnt: other glyphs, attractors, kinds of pattern, plans."""
    for category in HELD_OUT:
        picture(category, 0)
    kinds = [{c.index // 2 for c in group if c.family == "texture"} for group in (TRAINED, HELD_OUT)]
    assert kinds[0].isdisjoint(kinds[1])
    attractors = [generator._attractor(c.index)[:50].tobytes() for c in TRAINED + HELD_OUT if c.family == "fractal"]
    assert len(set(attractors)) == len(attractors)
    glyphs = [generator.GLYPHS[c.index] for c in TRAINED + HELD_OUT if c.family == "glyph"]
    assert len(set(glyphs)) == len(glyphs)


def test_a_label_says_what_is_drawn(monkeypatch):
    """Of a body how many solids are painted beside its trunk; of a beast its view, by where the ears are, and which."""
    painted, ears, paint, draw_ears = [], [], generator._paint, generator._ears
    monkeypatch.setattr(generator, "_paint", lambda *args: painted.append(len(args[1])) or paint(*args))
    monkeypatch.setattr(generator, "_ears", lambda *args: ears.append(args) or draw_ears(*args))
    for body in [c for c in TRAINED if c.family == "body"][:5]:
        picture(body, 0)
        assert generator.label(body, 0) == f"body with {painted[-1] - 1} limbs"
    seen = set()
    for beast in [c for c in TRAINED if c.family == "beast"][:5]:
        for number in range(4):
            picture(beast, number)
            kind, x, y, *_ = ears[-1]
            view = "portrait" if (x, y) == (0, 0) else "whole"
            seen.add(view)
            assert generator.label(beast, number) == f"beast with ears {kind}, {view}"
    assert seen == {"portrait", "whole"}
    glyphs = [generator.label(c, 0) for c in TRAINED if c.family == "glyph"]
    assert len(set(glyphs)) == len(glyphs) == 62


@tensorflow
def test_descriptions_tell_orientation_and_colour_at_any_size():
    """Upright bars, level bars, red: each answers in its own places; twice the pixels say the same."""
    tf, _ = engines.load()
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    waves = np.stack([np.sin(40 * x), np.sin(40 * y), 0 * x]) * 0.3 + 0.5
    pictures = np.repeat(waves[..., None], 3, axis=-1).astype(np.float32)
    pictures[2] = (0.9, 0.1, 0.1)
    found = pretrain.describe(tf, tf.constant(pictures)).numpy()
    upright, level, red = found
    cells = found[:, :128].reshape(3, 16, 8).mean(axis=1)  # (picture, orientation)
    assert cells[0].argmax() == 0  # a gradient along x
    assert cells[1].argmax() == 4  # along y, a quarter turn on
    assert cells[2].max() == 0
    colours = slice(2 * (128 + 16), 2 * (128 + 16) + 48)
    np.testing.assert_allclose(red[colours].reshape(16, 3), np.tile([0.9, 0.1, 0.1], (16, 1)), atol=1e-6)
    np.testing.assert_allclose(upright[colours], 0.5, atol=0.1)
    large = pretrain.describe(tf, tf.image.resize(pictures, (128, 128))).numpy()
    assert large.shape == found.shape
    assert np.corrcoef(large[1], level)[0, 1] > 0.95


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Pictures of four classes."""
    return pretrain.draw(TRAINED[60:64], tmp_path_factory.mktemp("pictures"), TINY.pictures)


def small(keras, side=None):
    """A network with what matters to a checkpoint: convolutions, batch statistics, 1280 features."""
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            keras.layers.Conv2D(1280, 3, strides=8),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


@tensorflow
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, few):
    """Two runs of the same steps, one of them through a checkpoint, have the same losses and weights to the bit."""
    monkeypatch.setattr(pretrain, "TRAINED", TRAINED[60:64])
    monkeypatch.setattr(pretrain, "build", small)  # B0's gradient takes TensorFlow 15 s to trace, six times
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = pretrain.train(tmp_path / "whole", few, TINY, TINY.steps)
    pretrain.train(tmp_path / "stopped", few, TINY, 1)
    resumed = pretrain.train(tmp_path / "stopped", few, TINY, TINY.steps)
    assert [whole.side(step) for step in range(TINY.steps)] == [32, 32, 40, 40]
    assert np.isfinite(whole.losses).all()
    np.testing.assert_array_equal(whole.losses, resumed.losses)
    for one, two in zip(whole.variables(), resumed.variables(), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), err_msg=one.path)
    with pytest.raises(InputError, match="another schedule"):
        pretrain.train(tmp_path / "stopped", few, replace(TINY, batch=5), TINY.steps)
    checkpoint = tmp_path / "stopped" / "checkpoint.npz"
    whole_file = checkpoint.read_bytes()
    for damaged in (b"", b"text", whole_file[: len(whole_file) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(InputError, match="no checkpoint of this network"):
            pretrain.Trainer(few, TINY).restore(checkpoint)
    checkpoint.write_bytes(whole_file)
    monkeypatch.setattr(pretrain, "code_version", lambda: "other")
    with pytest.raises(InputError, match="another schedule"):
        pretrain.train(tmp_path / "stopped", few, TINY, TINY.steps)


@tensorflow
def test_what_the_trainer_writes_is_what_the_source_loads(tmp_path, monkeypatch):
    """Through float16 and back the features are the network's own; the file that ships is small and of this form."""
    _, keras = engines.load()
    keras.utils.set_random_seed(1)
    model = pretrain.build(keras, 64)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    x = np.stack([picture(category, 0)[:64, :64] for category in TRAINED[::40]])
    model(x.astype(np.float32), training=True)  # statistics of its own
    pretrain.write_weights(tmp_path / "weights.npz", model, 64)
    with np.load(tmp_path / "weights.npz") as written, np.load(backbone.EMBEDDED_WEIGHTS) as ships:
        assert {name: written[name].shape for name in written} == {name: ships[name].shape for name in ships}
        assert all(ships[name].dtype == np.float16 for name in ships if name != "input_size")
    assert backbone.EMBEDDED_WEIGHTS.stat().st_size < 9e6
    monkeypatch.setattr(backbone, "EMBEDDED_WEIGHTS", tmp_path / "weights.npz")
    loaded = backbone.load(backbone.resolve("embedded"))
    model.set_weights([each.astype(np.float16).astype(np.float32) for each in model.get_weights()])
    np.testing.assert_allclose(loaded.embed(x), np.asarray(model(x.astype(np.float32), training=False)), atol=1e-4)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "an array", "half", "a flipped bit"])
def test_damaged_weights_say_how_to_restore_them(damage, tmp_path, monkeypatch):
    """Whatever numpy, zipfile or zlib raise: one error, with what to do."""
    path = tmp_path / "weights.npz"
    monkeypatch.setattr(backbone, "EMBEDDED_WEIGHTS", path)
    np.savez_compressed(path, input_size=64)
    whole = path.read_bytes()
    flipped = whole[:70] + bytes([whole[70] ^ 255]) + whole[71:]  # inside the compressed array
    np.save(tmp_path / "one.npy", np.zeros(3))
    array = (tmp_path / "one.npy").read_bytes()
    path.unlink()
    files = {"empty": b"", "text": b"not weights", "an array": array, "half": whole[:90], "a flipped bit": flipped}
    if damage in files:
        path.write_bytes(files[damage])
    with pytest.raises(BackboneError, match=r"cannot be read.*Restore it with git checkout"):
        backbone.resolve("embedded")


@tensorflow
def test_shipped_features_know_classes_that_were_never_trained():
    """On held-out generated classes they beat the same network with random weights by far."""
    classes = [c for c in HELD_OUT if c.family == "texture"][::2] + [c for c in HELD_OUT if c.family == "fractal"][:4]
    pictures = np.stack([picture(category, number) for category in classes for number in range(15)])
    names = np.repeat(np.arange(len(classes)), 15)
    source = backbone.resolve("embedded")
    tf, keras = engines.load()
    size = source.input_size
    pixels = tf.image.resize(pictures, (size, size), antialias=True).numpy().astype(np.uint8)
    keras.utils.set_random_seed(0)
    random = backbone.Backbone(pretrain.build(keras, size), size)

    def score(network):
        probe = make_pipeline(StandardScaler(), LinearSVC(C=1e-3))
        return cross_val_score(probe, network.embed(pixels), names, cv=3).mean()

    trained = score(backbone.load(source))
    assert trained > 0.7
    assert trained > score(random) + 0.2


def test_embedded_is_a_source_like_the_others():
    """Name, note, digest, recipe and its own input size, without TensorFlow."""
    source = backbone.resolve("embedded")
    assert source.name == "embedded (trained on generated images; for demo and tests, not for your photos)"
    recipe = backbone.recipe(source)
    assert recipe["architecture"] == "efficientnet-b0"
    assert recipe["weights_sha256"] == backbone.file_digest(backbone.EMBEDDED_WEIGHTS)
    assert recipe["input_size"] == source.input_size in pretrain.SIZES
