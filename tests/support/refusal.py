"""What a user is told: tests hold on to an error's code and to the values in its message, never to its sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from extract.ground.errors import OnepassError


@contextmanager
def refusal(code: str, *values: object) -> Iterator[pytest.ExceptionInfo[OnepassError]]:
    """Expect a OnepassError of that code whose message holds each value: a line, a name, a command, say."""
    with pytest.raises(OnepassError) as raised:
        yield raised
    message = str(raised.value)
    missing = [str(value) for value in values if str(value) not in message]
    assert raised.value.code == code, f"{raised.value.code}, not {code}: {message}"
    assert not missing, f"{missing} not in: {message}"
