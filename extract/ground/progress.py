"""How far a long pass has come: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from threading import Lock

from tqdm import tqdm

EVERY = 10.0  # seconds between plain lines


class Progress:
    """Count images, or another unit; `add` may be called from several threads.

    total: images to come. label: the first word of each line.
    """

    def __init__(self, total: int, label: str, unit: str = "images") -> None:
        self.total, self.label, self.unit, self.done, self.bad = total, label, unit, 0, 0
        self._start = self._last = time.monotonic()
        self._lock = Lock()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", smoothing=0.1) if sys.stderr.isatty() else None

    def add(self, done: int, *, bad: int = 0) -> None:
        """Count `done` more images, `bad` of them quarantined."""
        with self._lock:
            self.done, self.bad = self.done + done, self.bad + bad
            if self._bar is not None:
                self._bar.update(done)
                if bad:
                    self._bar.set_postfix_str(f"{self.bad} quarantined")
            elif time.monotonic() - self._last >= EVERY:
                self._last = time.monotonic()
                print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        said = f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {rate:.1f} {self.unit}/s, {left:.0f} s left"
        return said + (f", {self.bad} quarantined" if self.unit == "images" else "")

    def close(self) -> None:
        """End the bar; safe to call twice."""
        if self._bar is not None:
            self._bar.close()
