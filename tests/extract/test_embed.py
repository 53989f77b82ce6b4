"""The pass without a backbone: what is embedded once, and what is shared with workers."""

from extract.embed import Pass, Seen


def test_of_copies_that_were_read_together_the_first_is_new():
    """And the plan's own digests are not touched, which workers go on reading."""
    known = frozenset(["a"])
    seen = Seen(known)
    assert seen.add(["a", "b"]).tolist() == [False, True]
    assert seen.add(["b", "c"]).tolist() == [False, True]
    assert all(digest in seen for digest in "abc") and "d" not in seen
    assert known == {"a"}
    assert seen.add([]).tolist() == []


def test_a_pass_that_embedded_nothing_has_no_rate_and_no_shares():
    """Nor does it divide by zero."""
    assert (Pass().rate, Pass().shares()) == (0.0, {})
