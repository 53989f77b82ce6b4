"""TensorFlow and Keras are loaded as ours, whatever the settings of the user are."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extract import run
from extract.ground import tensorflow
from extract.store import cache
from tests.support import forked

pytestmark = pytest.mark.tensorflow

KERAS_SETTINGS = {  # each of them changes something, or fails, where Keras reads it
    "floatx": ["float16", "float8"],
    "epsilon": [1e-3, 1],
    "backend": ["torch", "none"],
    "image_data_format": ["channels_first", "x"],
    "nnx_enabled": [True],
    "KERAS_BACKEND": ["jax", "torch"],
    "KERAS_NNX_ENABLED": ["1"],
    "KERAS_MAX_EPOCHS": ["3", "a"],
    "KERAS_MAX_STEPS_PER_EPOCH": ["1", ""],
    "KERAS_HOME": ["/dev/null/x"],
}
READ_SETTINGS = """if True:
    import json, os, runpy, sys
    from extract.ground import tensorflow
    tensorflow.load()
    names = "backend floatx epsilon image_data_format is_nnx_enabled max_epochs max_steps_per_epoch keras_home"
    def settings():
        try:
            read = runpy.run_module("keras.src.backend.config")
            return [read[name]() for name in names.split()]
        except Exception as error:
            return repr(error)
    found = []
    for name, value in json.loads(sys.argv[2]):
        os.environ["KERAS_HOME"] = sys.argv[1]
        with open(sys.argv[1] + "/keras.json", "w") as file:
            json.dump({} if name.isupper() else {name: value}, file)
        os.environ |= {name: value} if name.isupper() else {}
        theirs, before = settings(), dict(os.environ)
        with tensorflow._keras_defaults():
            ours = settings()
        assert dict(os.environ) == before
        found.append([theirs, ours])
        os.environ.pop(name, None)
    print(json.dumps(found))
"""


def test_keras_settings_are_ours_whatever_the_users_are(tmp_path):
    """Each setting that Keras' configuration reads, from keras.json or the environment, valid or not: no effect."""
    source = Path(tensorflow.load()[1].src.backend.config.__file__).read_text()
    read = {*re.findall(r'_config\.get\("(\w+)"', source), *re.findall(r'"(KERAS_\w+)"', source)}
    assert read == KERAS_SETTINGS.keys()  # a new Keras may have more
    cases = [(name, value) for name, values in KERAS_SETTINGS.items() for value in values]
    process = forked.Process(READ_SETTINGS, [tmp_path, json.dumps(cases)], tmp_path / "said")
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    ours = ["tensorflow", "float32", 1e-7, "channels_last", False, None, None, os.devnull]
    for (name, value), (theirs, found) in zip(cases, json.loads(said), strict=True):
        assert found == ours, (name, value)
        assert theirs[:7] != ours[:7] or name == "KERAS_HOME", (name, value)


def test_every_stage_runs_under_the_settings_of_another_backend(tmp_path, place):
    """keras.json of somebody who uses torch with float16 and channels first: the same features, an export in parity."""
    assert run.extract(run.Config(place, engine="tensorflow")) == 0
    (tmp_path / "keras.json").write_text(
        '{"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}'
    )
    code = f"""if True:
        from extract.__main__ import main as extract
        from heads.__main__ import main as heads
        inputs = {["--data", str(place.data), "--media", str(place.media), "--out", str(tmp_path / "out")]}
        ran = [extract(["features", *inputs, "--backbone", {place.backbone!r}, "--engine", "tensorflow"])]
        ran += [heads(["train", *inputs, "--head", "sigmoid"]), heads(["export", *inputs, "--head", "sigmoid"])]
        assert ran == [0, 0, 0], ran
    """
    theirs = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax", "KERAS_NNX_ENABLED": "1", "KERAS_MAX_EPOCHS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | theirs, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    ours, found = cache.open_cache(place.cache), cache.open_cache(tmp_path / "out" / "features.h5")
    assert found.fingerprint == ours.fingerprint
    rows = np.arange(len(ours))
    assert len(found) == len(ours)
    np.testing.assert_array_equal(found.read(rows), ours.read(rows))


def test_a_process_that_uses_keras_otherwise_is_refused():
    """Somebody's own program that imported Keras first, with another number format."""
    code = "import keras; keras.config.set_floatx('float16'); from extract.ground import tensorflow; tensorflow.load()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BackboneError: This process imported Keras before, with floatx 'float16'" in result.stderr
