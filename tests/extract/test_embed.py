"""The pass without a backbone."""

from extract.embed import Pass


def test_a_pass_that_embedded_nothing_has_no_rate_and_no_shares():
    """Nor does it divide by zero."""
    assert (Pass().rate, Pass().shares()) == (0.0, {})
