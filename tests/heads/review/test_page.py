"""The review page in a real browser: keys, blur, undo, a kill, two tabs; nothing is asked of any other machine."""

import json
import time
from contextlib import contextmanager

import pytest

from extract.tables import answers
from tests.heads.review import test_desk
from tests.heads.review.test_server import TOKEN, ask, served, started
from tests.support import chromium, synthetic
from tests.support.album import Album, encoded, picture, read_rows, with_features

pytestmark = pytest.mark.browser
CODES = {
    "k": 75,
    "f": 70,
    "s": 83,
    "u": 85,
    "z": 90,
    "b": 66,
    "g": 71,
    **{str(digit): 48 + digit for digit in range(1, 10)},
    "/": 191,
    "Escape": 27,
    "Enter": 13,
    "ArrowRight": 39,
    "ArrowLeft": 37,
}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    with chromium.page() as found:
        yield found


@contextmanager
def reviewed(place):
    """Yield the address of a review that nobody kills: a thread of this process, no interpreter is started."""
    with served(place) as (url, desk):
        desk.start()
        yield f"{url}{TOKEN}/"


def until(browser, condition):
    """Wait until a JavaScript condition holds."""
    deadline = time.monotonic() + 20
    while not browser.run(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def opened(browser, url, **how):
    browser.open("about:blank")  # so that the page before is done asking
    browser.complaints.clear()
    browser.open(url, **how)
    until(browser, "state?.order >= 2 && current !== null")


def press(browser, *keys):
    for key in keys:
        browser.press(key, CODES[key])


def saved(browser):
    until(browser, "document.body.dataset.pending === '0'")


def text(browser, name):
    return browser.run(f"document.getElementById('{name}').textContent")


def test_flip_ten_undo_one_kill_reopen_nothing_is_lost(photos, browser):
    """As often as keys can be pressed; the file has ten flips and one undo, and the page opens where it was left."""
    with started(photos) as (process, url):
        opened(browser, url)
        shown = []
        for _ in range(10):
            shown.append(text(browser, "id"))
            press(browser, "f")
        press(browser, "u")
        saved(browser)
        assert text(browser, "id") == shown[-1], "what was taken back is shown again"
        assert len(set(shown)) == 10
        until(browser, "document.getElementById('left').textContent.startsWith('9 labels changed')")
        process.kill()
        process.wait()
    rows = read_rows(photos.answers)
    assert [(row["answer"], row["objectId"]) for row in rows] == [("flip", name) for name in shown] + [
        ("undo", shown[-1])
    ]
    with started(photos) as (_, url):
        opened(browser, url)
        assert text(browser, "left").startswith("9 labels changed")
        assert text(browser, "counts") == "9 of 60 answered in this queue"
        assert text(browser, "id") not in shown[:9]
        browser.run("choose('answered')")
        until(browser, "current !== null")
        assert text(browser, "id") == shown[8]
        press(browser, "u")
        saved(browser)
        until(browser, "document.getElementById('left').textContent.startsWith('8 labels changed')")
        assert browser.complaints == []


def test_accuracy_and_queue_move_as_labels_are_mended(photos, browser):
    """Three wrong labels stand in front; flipping them raises the accuracy that is shown."""
    lines = photos.data.read_text().splitlines()
    for at in (10, 11, 14):  # two of validation, one of train
        name, value, *rest = lines[at + 1].split(",")
        lines[at + 1] = ",".join([name, str(1 - int(value)), *rest])
    photos.data.write_text("\n".join(lines) + "\n")
    with reviewed(photos) as url:
        opened(browser, url)
        before, shown = text(browser, "accuracy"), []
        for _ in range(3):
            shown.append(text(browser, "id"))
            press(browser, "f")
        assert sorted(shown) == ["0010img", "0011img", "0014img"]
        until(browser, "state.history.at(-1)[0] === 3 && state.busy === ''")
        assert text(browser, "accuracy") != before
        assert browser.run("state.validation.value") == 1.0
        assert len(browser.run("document.querySelector('#history polyline').getAttribute('points')").split()) >= 2


def test_pictures_are_blurred_but_while_space_is_held(photos, browser):
    """On the card, beside it, zoomed; B turns it off and on."""
    everything = "[...document.querySelectorAll('.photo')].map(each => getComputedStyle(each).filter)"
    space = {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32}
    with reviewed(photos) as url:
        opened(browser, url)
        until(browser, "document.querySelectorAll('#neighbours .photo').length === 8")
        press(browser, "z")
        assert browser.run("document.getElementById('large').open")
        for kind, blurred in (("keyDown", False), ("keyUp", True)):
            browser.call("Input.dispatchKeyEvent", type=kind, **space)
            found = browser.run(everything)
            assert len(found) == 10
            assert all(("blur" in each) == blurred for each in found)
        press(browser, "z", "b")
        assert not browser.run("document.getElementById('large').open")
        assert set(browser.run(everything)) == {"none"}
        press(browser, "b")
        assert "none" not in browser.run(everything)
        assert answers.read(photos.answers) == [], "looking answers nothing"


def test_two_tabs_do_not_fight(photos, browser):
    """The second to answer the same picture is told what it is now, and goes on."""
    with reviewed(photos) as url, chromium.Browser(chromium.find()) as other:
        opened(browser, url), opened(other, url)
        assert text(browser, "id") == text(other, "id")
        press(browser, "f")
        saved(browser)
        press(other, "k")
        saved(other)
        if "Another tab" not in text(other, "said"):  # it had heard of the answer in time, and showed the next picture
            assert len({row["objectId"] for row in read_rows(photos.answers)}) == 2
        else:
            assert "Your answer was not saved" in text(other, "said")
            assert [row["answer"] for row in read_rows(photos.answers)] == ["flip"]


def test_what_could_not_be_saved_is_said_and_kept(photos, browser):
    """The server is gone: the answer waits, and the page says so."""
    with started(photos) as (process, url):
        opened(browser, url)
        process.kill()
        process.wait()
        press(browser, "f")
        until(browser, "!document.getElementById('trouble').hidden")
        assert "Not saved: the server does not answer" in text(browser, "trouble")
        assert browser.run("document.body.dataset.pending") == "1"
        browser.run("outbox.length = 0")  # so that leaving the page asks nothing


def test_the_grid_shows_all_and_answers_by_key(photos, browser):
    """Arrows move, K answers the picture that has the focus, Enter opens it."""
    with reviewed(photos) as url:
        opened(browser, url)
        press(browser, "g")
        until(browser, "tiles.length > 10")
        assert text(browser, "total") == "to 60 of 60"
        first, second = browser.run("tiles.slice(0, 2).map(row => row.id)")
        press(browser, "k")
        saved(browser)
        press(browser, "Enter")
        assert text(browser, "id") == second
        assert [row["objectId"] for row in read_rows(photos.answers)] == [first]
        assert browser.complaints == []


def test_the_grid_leads_through_a_long_queue(tmp_path, browser):
    """Part by part, by arrow or by number; what was answered meanwhile moves no picture past the eye."""
    with reviewed(synthetic.workspace(tmp_path, 450, 16)) as url:
        opened(browser, url)
        order = [row["id"] for row in json.loads(ask(f"{url}api/queue/control?start=0&count=450")[2])["rows"]]
        browser.run("choose('control')")
        press(browser, "g")
        until(browser, "tiles.length === 200")
        press(browser, "k", "f", "k")
        saved(browser)
        browser.run("moveFocus(199 - focus)")
        press(browser, "ArrowRight")
        until(browser, "start === 197 && tiles.length === 200")
        assert browser.run("tiles[focus].id") == order[200]
        press(browser, "ArrowLeft")
        until(browser, "start === 0 && tiles.length === 200")
        assert browser.run("tiles[focus].id") == order[202]
        browser.run("at('from').value = 401, at('from').dispatchEvent(new Event('change'))")
        until(browser, "start === 400 && tiles.length === 47")
        assert text(browser, "total") == "to 447 of 447"


def test_one_answer_about_copies_is_for_all_on_the_page_too(tmp_path, browser):
    """On the card the copies are not asked about again; in the grid their tiles change together."""
    album = Album(tmp_path / "album").fill(40)
    for at in range(2):
        for value, name in enumerate("ab"):
            album.add(f"copy{name}{at}", encoded(picture(300 + at)), str(value), "train")
    album.write()
    with reviewed(with_features(album, tmp_path / "out")) as url:
        opened(browser, url)
        browser.run("choose('copies')")
        until(browser, "current?.id === 'copya0'")
        press(browser, "k")
        saved(browser)
        assert text(browser, "said") == "Kept: copya0."
        assert text(browser, "id") == "copya1"
        press(browser, "g")
        until(browser, "tiles.length === 2")
        press(browser, "k")
        saved(browser)
        assert browser.run("tiles.map(row => row.label + row.answer)") == ["0keep", "0keep"]
        assert text(browser, "said") == "Kept: copya1."
        assert browser.complaints == []


def test_an_answer_is_about_the_picture_that_is_seen(photos, browser):
    """A zoom ends when another picture comes; on a slow line none stands in the place of the next."""
    with reviewed(photos) as url:
        opened(browser, url)
        until(browser, "!document.getElementById('picture').hidden")
        press(browser, "z", "k")
        assert not browser.run("document.getElementById('large').open")
        saved(browser)
        slow = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.call("Network.emulateNetworkConditions", latency=700, **slow)
        shown = browser.run(
            "[10, 11, 12].map(at => { show(rows[at]); const image = document.getElementById('picture');"
            " return [image.hidden, image.complete] })"
        )
        browser.call("Network.emulateNetworkConditions", latency=0, **slow)
        assert shown == [[True, False]] * 3
        until(browser, "!document.getElementById('picture').hidden && document.getElementById('picture').naturalWidth")


def test_in_the_grid_a_refused_answer_leaves_the_tile_as_it_stands(photos, browser):
    """Another tab was first: the tile shows what is saved, not what was pressed."""
    with reviewed(photos) as url:
        opened(browser, url)
        press(browser, "g")
        until(browser, "tiles.length > 10")
        first = browser.run("tiles[0]")
        said = {"row": first["row"], "answer": "keep", "old": first["label"], "new": first["label"], "number": 0}
        assert ask(f"{url}api/answer", said)[0] == 200
        press(browser, "f")
        saved(browser)
        assert "Your answer was not saved" in text(browser, "said")
        assert browser.run("tiles[0].answer + tiles[0].label") == "keep" + first["label"]
        browser.run("moveFocus(-focus), answer('flip'), moveFocus(-1), answer('flip')")
        assert text(browser, "said") == "Its answer is still being saved."
        saved(browser)
        assert [row["answer"] for row in read_rows(photos.answers)] == ["keep", "flip"]


def test_nothing_leaves_this_machine_and_names_are_text(tmp_path, browser):
    """Wide and narrow, light and dark; a class called like markup, an unlabelled picture, one whose file is gone."""
    album = Album(tmp_path / "album").fill(30)
    album.rows = [(name, {"0": HOSTILE, "1": "long" * 60}[value], *rest) for name, value, *rest in album.rows]
    gone = album.add("gone", encoded(picture(99)), "", "train")
    album.write()
    place = with_features(album, tmp_path / "out")
    gone.unlink()
    with reviewed(place) as url:
        browser.requests.clear()
        for width, theme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            opened(browser, url, width=width, theme=theme)
            until(browser, "document.querySelectorAll('#neighbours .photo').length === 8")
            assert browser.run("document.documentElement.scrollWidth") == width
            assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
            assert HOSTILE in text(browser, "verdict") + text(browser, "vote")
        assert browser.complaints == []
        browser.run("choose('unlabelled')")
        until(browser, "current?.id === 'gone' && !document.getElementById('gone').hidden")
        press(browser, "f")
        assert "1 or 2 gives it one" in text(browser, "said")
        press(browser, "2")
        saved(browser)
        assert json.loads(ask(f"{url}api/state")[2])["queues"]["unlabelled"] == {"open": 0, "done": 1}
        assert {asked.rsplit(":", 1)[0] for asked in browser.requests if asked != "about:blank"} == {"http://127.0.0.1"}
        assert len(browser.requests) > 20


def test_ten_classes_are_answered_by_nine_keys_and_by_typing(tmp_path, browser):
    """Its own class first, then the most probable; F takes what heads say; letters in the box are no keys."""
    place = test_desk.opened(tmp_path, test_desk.TEN * 16, {41: "kind7", 12: "kind5"})
    right, given, names = (lambda: test_desk.TEN[int(text(browser, "id")[:4]) % 10]), {}, "choices(current)"
    with reviewed(place) as url:
        opened(browser, url)
        shown = browser.run(names)
        assert shown[0] == browser.run("current.label")
        likely = browser.run("current.likely.map(([name]) => name)")
        assert shown[1:] == [name for name in likely if name != shown[0]][:8]
        buttons = "[...document.querySelectorAll('#choices button')].map(each => each.textContent)"
        for key, (button, name) in enumerate(zip(browser.run(buttons), shown, strict=True), 1):
            assert button.startswith(name)
            assert button.endswith(f" %{key}")
        given[text(browser, "id")] = right()
        press(browser, str(shown.index(right()) + 1))
        given[text(browser, "id")] = browser.run("current.says")
        browser.run("bring({...current, says: 'kind3'})")
        given[text(browser, "id")] = "kind3"
        press(browser, "f")
        given[text(browser, "id")] = "kind9"
        press(browser, "/")
        browser.call("Input.insertText", text="KS")
        press(browser, "Escape", "/")
        browser.call("Input.insertText", text="D9")
        assert [each[:5] for each in browser.run(buttons)] == ["kind9"]
        press(browser, "Enter")
        given[text(browser, "id")] = browser.run("current.label")
        press(browser, "k")
        saved(browser)
        assert {row["objectId"]: row["new"] for row in read_rows(place.answers)} == given
        browser.run("choose('pairs')")
        until(browser, "current !== null && rows.length > 1")
        assert browser.run("current.label !== current.says")
        assert browser.complaints == []
        for width, theme in ((1280, "dark"), (390, "light")):
            opened(browser, url, width=width, theme=theme)
            assert browser.run("document.documentElement.scrollWidth") == width


def test_three_labels_are_toggled_and_saved_together(tmp_path, browser):
    """Each digit changes one answer, first to its opposite; Enter saves, U brings them back, K keeps all."""
    values = ["none", "legs", "upper", "legs|upper", "long|upper", "long"]
    place = test_desk.opened(tmp_path, values * 20, {24: "long"})
    answers_now = "[...document.querySelectorAll('#choices b')].map(each => each.textContent).join(' ')"
    with reviewed(place) as url:
        opened(browser, url)
        assert (text(browser, "id"), browser.run(answers_now)) == ("0024img", "no yes no")
        assert browser.run("document.querySelectorAll('#choices .doubtful bdi')[0].textContent") == "long"
        press(browser, "2", "1", "3", "3")
        assert browser.run(answers_now) == "yes no ?"
        press(browser, "Enter")
        saved(browser)
        assert text(browser, "said") == "Flipped: 0024img, now legs|?upper."
        kept = text(browser, "id")
        press(browser, "u")
        saved(browser)
        assert (text(browser, "id"), browser.run(answers_now)) == ("0024img", "no yes no")
        press(browser, "/")
        browser.call("Input.insertText", text="lon")
        press(browser, "Enter", "Enter")
        assert text(browser, "id") == kept
        press(browser, "k")
        saved(browser)
        found = [(row["answer"], row["objectId"], row["new"]) for row in read_rows(place.answers)]
        assert found[:3] == [
            ("flip", "0024img", "legs|?upper"),
            ("undo", "0024img", "long"),
            ("flip", "0024img", "none"),
        ]
        assert found[3][:2] == ("keep", kept)
        assert not browser.run("[...document.querySelectorAll('[data-queue=pairs]')].some(each => each.offsetParent)")
        assert browser.complaints == []
