"""How far a pass has come: plain lines where there is no terminal."""

from types import SimpleNamespace

from extract.ground import progress
from extract.ground.progress import Progress


def test_plain_lines_tell_count_rate_time_left_and_quarantined(monkeypatch, capsys):
    """A line now and then, not one a batch."""
    clock = iter([0.0, 1.0, 2.0, 10.0, 10.0, 10.0, 11.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    bar = Progress(1000, "embedding")
    bar.add(32)
    bar.add(32, bad=2)
    bar.add(436)
    bar.add(32)
    bar.close()
    said = capsys.readouterr().err
    assert said == "embedding: 500/1,000 images, 50.0 images/s, 10 s left, 2 quarantined\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    """tqdm's, with what was quarantined behind it."""
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    bar = Progress(10, "embedding")
    bar.add(4, bad=1)
    bar.close()
    said = capsys.readouterr().err
    assert "4/10" in said
    assert "1 quarantined" in said
