"""Rows that the tests of heads share."""

import numpy as np
import pytest

from tests.support import synthetic


@pytest.fixture(scope="module")
def data():
    X, y = synthetic.features(600, 16, seed=0)
    return X + 3, y


@pytest.fixture
def grouped(data):
    """Rows in groups of six, and a function that gives the groups of rows, whichever array they stand in."""
    X, y = data
    groups = np.arange(len(y)) // 6

    def of(rows, among):
        index = {row.tobytes(): int(group) for row, group in zip(among, groups, strict=True)}
        return {index[row.tobytes()] for row in rows}

    return X, y, groups, of
