"""An export is backbone and head in one graph, published only when it agrees with the cached features."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import containers
from extract import cache, engines, images, run
from extract.errors import CacheError, HeadError
from heads import bundle, dataset, decision, export, train
from heads.layers import Dense, forward
from tests.conftest import picture, read_rows

pytestmark = pytest.mark.tensorflow

ALONE = """
import sys
import numpy as np
path, pixels = sys.argv[1], np.load(sys.argv[2])
if path.endswith("saved_model"):
    import tensorflow as tf
    signatures = tf.saved_model.load(path).signatures
    given = signatures["pixels"](pixels=tf.constant(pixels))
    encoded = [open(file, "rb").read() for file in sys.argv[4:]]
    from_bytes = signatures["bytes"](image_bytes=tf.constant(encoded))
    assert np.abs(given["probability"] - from_bytes["probability"]).max() < 1e-5
    assert (given["decision"].numpy() == from_bytes["decision"].numpy()).all()
else:
    import keras
    model = keras.models.load_model(path, safe_mode=True)
    given = model(pixels, training=False)
    for name, values in model.predict(pixels, verbose=0).items():
        assert np.abs(given[name].numpy() - values).max() < 1e-5
assert not any(name.split(".")[0] in ("extract", "heads") for name in sys.modules)
assert (given["decision"].dtype.name, tuple(given["decision"].shape)) == ("int32", (len(pixels), 1))
np.save(sys.argv[3], np.concatenate([given[name].numpy() for name in ("probability", "decision")], axis=1))
"""


@pytest.fixture
def ready(place):
    """A workspace with features and a trained logistic head whose threshold is not one half."""
    run.extract(run.Config(place))
    train.run(place, dataset.join(place), train.Config(["logistic"], 0, decision.parse("review=20/40")))
    return place


def test_every_format_agrees_with_the_cached_features(ready):
    """Raw file -> export equals cached feature -> head, on every image; the report says so."""
    results = export.export(ready, "logistic", n_images=0, seed=0)
    folder = ready.out / "exports" / "logistic"
    assert [(r.format, r.input) for r in results] == [
        (n, each) for n, inputs in export.FORMATS.items() for each in inputs
    ]
    for result in results:
        assert result.ok
        assert (result.n_images, result.flips) == (40, 0)
        assert result.max_abs_diff <= 1e-5
    assert json.loads((folder / "parity.json").read_text())[0]["max_abs_diff"] == results[0].max_abs_diff
    card = (folder / "MODEL_CARD.md").read_text()
    assert "# Model card: logistic" in card
    assert "| model.keras | pixels | 40 |" in card
    assert sorted(p.name for p in folder.iterdir()) == [
        "MODEL_CARD.md",
        "head.json",
        "model.h5",
        "model.keras",
        "parity.json",
        "saved_model",
    ]


@pytest.mark.parametrize("name", export.FORMATS)
def test_a_process_without_our_code_loads_each_format(ready, tmp_path, clean_environment, name):
    """Plain Keras or TensorFlow, safe mode on, another working directory."""
    export.export(ready, "logistic", n_images=8, seed=0)
    found = cache.open_cache(ready.cache)
    paths = {row["sha256"]: row["path"] for row in manifest_rows(ready)}
    pixels = np.stack([images.load(paths[digest], 32) for digest in found.sha256[:6].tolist()]).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    path = ready.out / "exports" / "logistic" / name
    files = [paths[digest] for digest in found.sha256[:6].tolist()]
    command = [sys.executable, "-c", ALONE, str(path), str(tmp_path / "pixels.npy"), str(tmp_path / "p.npy"), *files]
    subprocess.run(command, check=True, cwd=tmp_path, env=clean_environment)
    head = bundle.load(ready.out / "heads" / "logistic")
    expected, given = head.probability(found.read(np.arange(6))), np.load(tmp_path / "p.npy")
    np.testing.assert_allclose(given[:, 0], expected, atol=1e-5)
    assert given[:, 1].tolist() == (expected >= head.facts["threshold"]).tolist()
    assert 0 < given[:, 1].sum() < 6


def manifest_rows(place):
    return read_rows(place.out / "manifest.csv")


def test_a_class_whose_name_is_no_utf8_is_exported(ready):
    """A table's bytes survive in head.json; in the card, which is text, a ? stands for what is none."""
    path = ready.out / "heads" / "logistic" / "head.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": ["chat", "\udce9l\udce9phant"]}))
    assert all(result.ok for result in export.export(ready, "logistic", n_images=4, seed=0))
    assert "**?l?phant**" in (ready.out / "exports" / "logistic" / "MODEL_CARD.md").read_text()


def test_a_hidden_layer_is_joined_as_it_was_trained(tiny_backbone):
    """Two dense layers on the backbone's output, in Keras as in NumPy."""
    from extract import engines

    _, keras = engines.load()
    rng, network = np.random.default_rng(0), keras.models.load_model(tiny_backbone)
    shapes = ((12, 5, "relu"), (5, 1, "sigmoid"))
    dense = [Dense(rng.normal(size=(d, n)).astype("f4"), rng.normal(size=n).astype("f4"), a) for d, n, a in shapes]
    pixels = rng.uniform(0, 255, (6, 32, 32, 3)).astype("f4")
    expected = forward(dense, np.asarray(network(pixels)))
    joined = export.join(network, dense, 0.5)(pixels)
    np.testing.assert_allclose(np.asarray(joined["probability"])[:, 0], expected, atol=1e-6)
    assert np.ptp(expected) > 0.01


def test_the_exported_graph_is_flat(ready):
    """A nested model may not reload (keras#19326)."""
    from extract import engines

    _, keras = engines.load()
    export.export(ready, "logistic", n_images=8, seed=0)
    model = keras.models.load_model(ready.out / "exports" / "logistic" / "model.keras")
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)]


def test_a_format_that_fails_parity_is_not_published_and_the_command_fails(ready, monkeypatch):
    """One wrong file among three: the two good ones are published, the report names the third."""
    write = export.write_formats

    def one_is_wrong(network, layers, threshold, folder):
        wrong = [replace(layers[0], bias=layers[0].bias + 0.05), *layers[1:]]
        formats = write(network, layers, threshold, folder)
        export.join(network.model, wrong, threshold).save(folder / "model.h5")
        return formats

    monkeypatch.setattr(export, "write_formats", one_is_wrong)
    with pytest.raises(HeadError, match=r"these formats were not published: model\.h5 by pixels \(max"):
        export.export(ready, "logistic", n_images=0, seed=0)
    folder = ready.out / "exports" / "logistic"
    assert not (folder / "model.h5").exists()
    assert (folder / "model.keras").exists()
    assert [row["ok"] for row in json.loads((folder / "parity.json").read_text())] == [True, False, True, True]


def test_a_good_export_outlives_one_that_fails(ready, monkeypatch):
    """Where no format passes, nothing is replaced; where most images are gone, nothing is compared."""
    export.export(ready, "logistic", n_images=8, seed=0)
    folder = ready.out / "exports" / "logistic"
    before = (folder / "parity.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(export, "TOLERANCE", 0.0)
        with pytest.raises(HeadError, match=r"model\.keras .* model\.h5 .* saved_model"):
            export.export(ready, "logistic", n_images=8, seed=0)
    for row in manifest_rows(ready)[:35]:
        os.remove(row["path"])
    with pytest.raises(HeadError, match="Only 5 of the 40 images for the parity check"):
        export.export(ready, "logistic", n_images=0, seed=0)
    assert (folder / "parity.json").read_bytes() == before


def test_a_full_disk_is_the_systems_word_and_not_tensorflows_traceback(ready, monkeypatch):
    """Found by the fault campaign: TensorFlow has error types of its own for what the disk refuses."""
    tf, _ = engines.load()

    def refused(*given):
        raise tf.errors.OutOfRangeError(None, None, "saved_model.pb; File too large")

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_saved_model", refused)
        with pytest.raises(OSError, match="File too large"):
            export.export(ready, "logistic", n_images=8, seed=0)
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="MB are needed and 0 MB are free"):
        export.export(ready, "logistic", n_images=8, seed=0)
    assert not list((ready.out / "exports").rglob("*"))


def test_a_flip_counts_only_outside_the_tolerance():
    """A probability that sits on the threshold may fall to either side by rounding."""
    expected = np.array([0.50005, 0.4, 0.6, 0.9])

    def compare(*p):
        return export.compare("x", "pixels", np.c_[p, np.array(p) >= 0.5], expected, 0.5)

    near = compare(0.49998, 0.4, 0.6, 0.9)
    assert (near.flips, near.ok, near.n_images) == (0, True, 4)
    far = compare(0.50005, 0.51, 0.6, 0.9)
    assert (far.flips, far.ok) == (1, False)
    broken = compare(0.50005, 0.4, np.nan, 0.9)
    assert (broken.max_abs_diff, broken.ok) == (1.0, False)


def test_a_decision_that_its_own_probability_does_not_give_fails_parity():
    """Keras' Discretization of an integer dtype was right layer by layer and wrong in a graph."""
    p = np.array([0.2, 0.5, 0.7])
    assert export.compare("x", "pixels", np.c_[p, [0, 1, 1]], p, 0.5).ok
    wrong = export.compare("x", "pixels", np.c_[p, [0, 0, 1]], p, 0.5)
    assert (wrong.wrong_decisions, wrong.flips, wrong.ok) == (1, 0, False)


def test_parity_looks_hardest_where_a_flip_would_be(ready):
    """A quarter of the sample lies nearest to the threshold."""
    found = cache.open_cache(ready.cache)
    head = bundle.load(ready.out / "heads" / "logistic")
    p = head.probability(found.read(np.arange(40)))
    sample = export.draw(ready, found, head, 20, 0)
    assert len(sample.p) == len(set(sample.sha256)) == 20
    nearest = set(found.sha256[np.argsort(np.abs(p - head.facts["threshold"]))[:5]].tolist())
    assert nearest <= set(sample.sha256)


def test_another_backbone_than_the_caches_is_refused(ready, tiny_backbone, tmp_path):
    """Joined to it, the head would be nonsense."""
    other = tmp_path / "other.keras"
    other.write_bytes(tiny_backbone.read_bytes() + b"\0")
    with pytest.raises(CacheError, match="weights_sha256 is"):
        export.export(replace(ready, backbone=str(other)), "logistic", n_images=8, seed=0)
    assert not (ready.out / "exports").exists()


def test_the_graph_decodes_what_it_can_and_refuses_the_rest_loudly(place, album):
    """Each native file's bytes count in parity, the others' pixels; one foreign file fails its whole call."""
    from extract import engines

    tf, _ = engines.load()
    files = containers.containers(picture(90, 60))
    for i, (name, data) in enumerate(files.items()):
        album.add(f"{i:02d}--{name}", data, str(i % 2), "train")
    album.write()
    run.extract(run.Config(place))
    train.run(place, dataset.join(place), train.Config(["logistic"]))
    results = {(r.format, r.input): r for r in export.export(place, "logistic", n_images=0, seed=0)}
    native = sum(images.in_graph(data, 32) for data in files.values())
    assert 0 < native < len(files)
    assert results["saved_model", "pixels"].n_images == 40 + len(files)
    assert results["saved_model", "bytes"].n_images == 40 + native
    assert all(result.ok for result in results.values())
    by_bytes = tf.saved_model.load(str(place.out / "exports" / "logistic" / "saved_model")).signatures["bytes"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="other images go to the signature `pixels`"):
        by_bytes(image_bytes=tf.constant([files["PNG"], files["TIFF"]]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        by_bytes(image_bytes=tf.constant([files["PNG"], files["JPEG, 4:4:4"][:300]]))


def test_what_is_no_export_is_refused(tmp_path):
    """A text file and an empty folder."""
    (tmp_path / "model.keras").write_text("no")
    with pytest.raises(HeadError, match="cannot be loaded as an exported model"):
        export.open_export(tmp_path / "model.keras")
    with pytest.raises(HeadError, match="cannot be loaded as an exported model"):
        export.open_export(tmp_path)
