"""The benchmark's arithmetic: medians with spread, ratios within a repeat, and the share of the limit."""

import numpy as np

from benchmarks import extraction


def test_ratios_are_taken_within_each_repeat():
    """A machine that was slow in one repeat was slow for all of it; what did not run says so."""
    found = {
        "model.predict over a folder": [50.0, 25.0, 40.0],
        "from memory: OpenVINO float32": [150.0, 75.0, 120.0],
        "from memory: ONNX Runtime": [None, None, None],
        "decoding alone": [600.0, 300.0, 480.0],
        "ours, openvino float32": [110.0, 55.0, 88.0],
    }
    rows = {line.split("|")[1].strip(): line for line in extraction.table(found, 64).splitlines()[2:]}
    assert "| 88.0 (55.0 to 110.0) | 2.20 (2.20 to 2.20) | 0.92 (0.92 to 0.92) |" in rows["ours, openvino float32"]
    assert np.isclose(110 * (1 / 600 + 1 / 150), 0.92, atol=0.005)
    assert "| 40.0 (25.0 to 50.0) | 1.00 (1.00 to 1.00) |" in rows["model.predict over a folder"]
    assert rows["from memory: ONNX Runtime"].count("did not run") == 2


def test_the_machine_is_named_without_its_host():
    """Processor, cores, versions."""
    import platform

    assert f"{extraction.ground.cores()} cores" in extraction.machine()
    assert platform.node() not in extraction.machine()
