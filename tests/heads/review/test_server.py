"""The review's server: nothing without the token, nothing but the manifest's pictures, no answer lost to a kill."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import uvicorn
from PIL import Image

from extract.tables import answers
from heads.__main__ import main
from heads.review import server
from heads.review.desk import Desk
from tests.support.album import ROOT, encoded, picture

TOKEN = "t0ken"


@contextmanager
def served(place):
    """Yield the address of a server in a thread of its own, and its desk."""
    desk = Desk(place, "anna")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        running = uvicorn.Server(uvicorn.Config(server.build(desk, TOKEN), log_level="error"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", desk
        finally:
            running.should_exit = True
            thread.join()
            desk.close()


def ask(url, said=None, **headers):
    """Return status, headers and body; `said` is posted as JSON."""
    data = None if said is None else said if isinstance(said, bytes) else json.dumps(said).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_without_the_token_there_is_nothing_to_find(photos):
    """Nor under another host's name, as a page elsewhere would use that points its own name at this machine."""
    with served(photos) as (url, _):
        assert ask(f"{url}{TOKEN}/api/state")[0] == 200
        paths = ("api/state", "thumb/0", "image/0", "api/queue/suspects", "", "page.js")
        for given in ("", "wrong/", f"{TOKEN}x/", "%74oken/", "../", f"{TOKEN[:-1]}/"):
            for path in paths:
                status, _, body = ask(f"{url}{given}{path}")
                assert (status, body) == (404, b'{"detail":"Not Found"}'), (given, path)
        for method, path in (("POST", "api/answer"), ("GET", "api/answer"), ("HEAD", "page.js"), ("OPTIONS", "*")):
            request = urllib.request.Request(f"{url}wrong/{path}", b"{" if method == "POST" else None, method=method)
            with pytest.raises(urllib.error.HTTPError, match="404"):  # neither its method nor its body is looked at
                urllib.request.urlopen(request, timeout=20)
        for host in ("evil.example", f"{TOKEN}.example:80", "127.0.0.1.evil.example"):
            assert ask(f"{url}{TOKEN}/api/state", Host=host)[0] == 404
            assert ask(f"{url}{TOKEN}/api/answer", {}, Host=host)[0] == 404
        for path in ("docs", "openapi.json", "redoc", f"{TOKEN}/docs"):
            assert ask(url + path)[0] == 404


def test_every_reply_forbids_what_the_page_does_not_need(photos):
    """No other script, no frame, no referrer with the token in it, nothing kept on the browser's disk."""
    with served(photos) as (url, _):
        for path in ("api/state", "thumb/0", "nothing", ""):
            _, headers, _ = ask(f"{url}{TOKEN}/{path}")
            policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
            assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
            assert headers["Cache-Control"] == "no-store"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["X-Content-Type-Options"] == "nosniff"


def test_only_the_manifests_own_bytes_are_shown(photos, tmp_path):
    """Not a path, not another row, not what was put in a picture's place since; made small once."""
    with served(photos) as (url, desk):
        at = f"{url}{TOKEN}/"
        status, headers, small = ask(f"{at}thumb/4")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(small)).size == (48, 48)
        for row in ("60", "-1", "x", "1.5", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/4"):
            for kind in ("thumb", "image", "api/card"):
                assert ask(f"{at}{kind}/{row}")[0] in (404, 422), row
        file = photos.media / "object" / "00" / "04" / "0004img"
        file.write_bytes(encoded(picture(77)))
        assert ask(f"{at}thumb/4")[2] == small, "kept since it was made"
        status, _, body = ask(f"{at}image/4")
        assert (status, json.loads(body)["detail"].split(":")[0]) == (404, "changed")
        (photos.media / "object" / "00" / "05" / "0005img").unlink()
        assert json.loads(ask(f"{at}thumb/5")[2])["detail"].startswith("missing")
        kept = list((photos.beside_cache / "thumbnails").rglob("*.jpg"))
        assert [path.stem for path in kept] == [str(desk.rows.sha256[4])]


def test_a_cache_that_cannot_keep_thumbnails_shows_them_all_the_same(photos):
    """A full disk, or a shared cache that is another user's."""
    (photos.beside_cache / "thumbnails").write_text("in the way")
    with served(photos) as (url, _):
        status, headers, small = ask(f"{url}{TOKEN}/thumb/4")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(small)).size == (48, 48)


def test_malformed_answers_change_nothing(photos):
    """Wrong types, rows that are not there, no JSON, a form from another site."""
    good = {"row": 3, "answer": "flip", "old": "1", "new": "0", "number": 0}
    with served(photos) as (url, _):
        at = f"{url}{TOKEN}/api/"
        for name, value in (("row", "3"), ("row", True), ("row", 60), ("number", None), ("old", 1), ("answer", "no")):
            assert ask(f"{at}answer", {**good, name: value})[0] in (404, 422), (name, value)
        for data in (b"", b"[]", b"{", b"null", b"\xff", b"NaN"):
            assert ask(f"{at}answer", data)[0] in (400, 422), data
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert ask(f"{at}answer", json.dumps(good).encode(), **form)[0] == 422
        assert ask(f"{at}undo", {"number": 1})[0] == 409
        assert answers.read(photos.answers) == []
        assert ask(f"{at}answer", good)[0] == 200
        status, _, body = ask(f"{at}answer", good)
        assert (status, json.loads(body)["row"]["answer"]) == (409, "flip")


def test_a_disk_that_refuses_is_told(photos, monkeypatch):
    """507, with the reason; the page says that nothing was saved."""
    with served(photos) as (url, desk):
        monkeypatch.setattr(desk.answers._log, "append", lambda answer: (_ for _ in ()).throw(OSError("no space left")))
        said = {"row": 3, "answer": "flip", "old": "1", "new": "0", "number": 0}
        status, _, body = ask(f"{url}{TOKEN}/api/answer", said)
        assert (status, json.loads(body)["detail"]) == (507, "no space left")


@contextmanager
def started(place):
    """Run `python -m heads review` as a user does; yield the process and its address, and end it in any case."""
    command = [sys.executable, "-m", "heads", "review", "--out", str(place.out), "--who", "anna"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = next((found[0] for line in process.stdout if (found := re.search(r"http://\S+", line))), None)
        assert address, "it ended by itself"
        yield process, address
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_no_answer_is_lost_to_a_kill(photos, capsys, interrupts):
    """Each that was acknowledged stands when the server is started again, with another address."""
    with started(photos) as (process, url):
        for row in range(10):
            said = {"row": row, "answer": "keep", "old": str(row % 2), "new": str(row % 2), "number": 0}
            assert ask(f"{url}api/answer", said)[0] == 200
        assert main(["review", "--out", str(photos.out)]) == 1
        assert f"Process {process.pid} is already writing" in capsys.readouterr().err
        process.kill()
        process.wait()
    with started(photos) as (process, again):
        assert url != again
        state = json.loads(ask(f"{again}api/state")[2])
        assert (state["answers"], state["queues"]["suspects"]) == (10, {"open": 50, "done": 10})
        process.send_signal(signal.SIGINT)
        assert "review    0 labels changed in all" in process.stdout.read()
        assert process.wait() == 0


def test_a_taken_port_and_missing_packages_are_told(photos, capsys, monkeypatch):
    """With what to do; nothing is reviewed."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["review", "--out", str(photos.out), "--port", str(other.getsockname()[1])]) == 1
    assert "cannot be used" in capsys.readouterr().err
    assert main(["review", "--out", str(photos.out), "--port", "65536"]) == 1
    assert "Port 65536 of 127.0.0.1 cannot be used" in capsys.readouterr().err
    monkeypatch.delattr("heads.review.server")
    monkeypatch.setitem(sys.modules, "heads.review.server", None)
    assert main(["review", "--out", str(photos.out)]) == 2
    assert "pip install -r requirements-review.txt" in capsys.readouterr().err


def test_a_user_without_a_name_answers_all_the_same(monkeypatch):
    """As in a container that runs under a number."""
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found")))
    from heads.__main__ import _user

    assert _user() == str(os.getuid())
