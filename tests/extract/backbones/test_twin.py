"""A SavedModel that is an EfficientNet exports to Keras' formats too, and only if its features prove that it is one."""

import numpy as np
import pytest

from benchmarks import probes
from extract import run, workspace
from extract.backbones import backbone, twin
from extract.ground import tensorflow
from extract.images import decode as images
from heads import train
from heads.data import dataset
from heads.ship import export, formats
from tests.support.album import encoded, picture

pytestmark = pytest.mark.tensorflow
SIDE = 32  # the smallest that Keras builds an EfficientNet for: its layers are the time


NAMES = ["efficientnet-b0", "efficientnet-lite0"]
LITE0 = pytest.mark.parametrize("module", NAMES[1:], indirect=True)  # the export is B0's


@pytest.fixture(scope="module")
def module(request, tmp_path_factory):
    """B0 with random weights, or Lite0, as a module of TF-Hub's form: pixels 0-1, and its variables in no order."""
    tf, _ = tensorflow.load()
    lite0 = request.param == "efficientnet-lite0"
    loaded = backbone.load(backbone.resolve(request.param, SIDE)) if lite0 else probes.untrained(SIDE, photos(32))
    network = loaded.model
    root = tf.train.Checkpoint()
    root.net = network
    run_it = tf.function(lambda images: network(images * 255.0, training=False))
    run_it.get_concrete_function(tf.TensorSpec((None, SIDE, SIDE, 3)))
    root.__call__ = run_it
    held = [weight.value for weight in network.weights if not weight.path.startswith("normalization")]
    root.variables = held[::-1]  # as those of a graph may be: the names say which is which
    path = tmp_path_factory.mktemp("hub") / "module"
    tf.saved_model.save(root, str(path))
    return path


def photos(n=4):
    return np.stack([images.from_bytes(encoded(picture(seed, 90)), SIDE) for seed in range(n)])


@LITE0
def test_the_keras_network_is_found_by_the_names_where_variables_are_in_no_order(module):
    """As those of a graph are; it gives the module's features."""
    network = backbone.load(backbone.resolve(str(module), SIDE))
    assert network.model is None
    variables, pixels = network._graph.apply.get_concrete_function().variables[::-1], photos()
    model = twin.find(network.apply, variables, NAMES, pixels)
    expected = np.asarray(network.apply(pixels.astype(np.float32)))
    given = np.asarray(model(pixels.astype(np.float32), training=False))
    np.testing.assert_allclose(given, expected, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1


@LITE0
def test_a_network_that_gives_other_features_is_none(module):
    """The same variables in another graph: here one that looks at the mirrored photo, upside down."""
    network = backbone.load(backbone.resolve(str(module), SIDE))
    other = twin.find(lambda pixels: network.apply(pixels[:, ::-1]), network._graph.variables, NAMES, photos())
    assert other is None
    assert twin.find(network.apply, network._graph.variables[1:], NAMES, photos()) is None


@pytest.mark.slow
@pytest.mark.parametrize("module", NAMES[:1], indirect=True)
def test_such_a_module_exports_to_keras(module, album, tmp_path):
    """B0, whose normalisation is to be found too: by names, with parity on raw files, as from any other backbone."""
    album.fill(20)
    place = workspace.resolve(
        data=str(album.table), media=str(album.media), backbone=str(module), input_size=SIDE, out=str(tmp_path / "out")
    )
    run.extract(run.Config(place))
    train.run(place, dataset.join(place), train.Config(["logistic"]))
    results = export.export(place, "logistic", n_images=8, seed=0, asked=["keras"])
    assert [result.format for result in results] == ["model.keras", "model.keras"]
    assert all(result.ok for result in results)
    folder = place.out / "exports" / "logistic"
    assert formats.open_export(folder / "model.keras").size == SIDE
    assert "not written" not in (folder / "MODEL_CARD.md").read_text()
