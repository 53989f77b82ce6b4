"""Files are whole or not there; a dead process holds nothing."""

import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from extract.ground import files
from tests.support.album import ROOT
from tests.support.refusal import refusal


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    """What is published is never half-written."""
    path = tmp_path / "table.csv"
    files.write_csv(path, ("a",), [("old",)])
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "a\nold\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    """A reader finds the old files or the new ones, never both."""
    for name in ("old", "new"):
        with files.replacing_folder(tmp_path / "head") as folder:
            (folder / name).write_text(name)
    assert [p.name for p in (tmp_path / "head").iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [tmp_path / "head"]


def test_a_folder_caught_between_two_renames_is_put_back(tmp_path):
    """A kill in the middle of a replacement loses nothing: the next run finds the old folder in its place."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".onepass-old-{dead.pid}-head").mkdir()
    (tmp_path / f".onepass-old-{dead.pid}-head" / "head.json").write_text("{}")
    (tmp_path / f".onepass-tmp-{dead.pid}-head").mkdir()
    (tmp_path / "notes.txt").write_text("the user's own")
    files.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head", "notes.txt"]
    assert (tmp_path / "head" / "head.json").exists()


def test_a_lock_refuses_a_second_holder_and_dies_with_its_process(tmp_path):
    """Two runs on one cache do not mix; after a SIGKILL nobody has to remove a lock by hand."""
    path = tmp_path / ".features.h5.lock"
    code = f"""
import sys, time
from pathlib import Path
from extract.ground import files
with files.lock(Path({str(path)!r}), "it"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert holder.stdout.readline() == "held\n"
    with refusal("busy", holder.pid), files.lock(path, "it"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with files.lock(path, "it"):
        assert path.exists()
    assert not path.exists()


def test_names_that_are_not_utf8_survive_a_table(tmp_path):
    """A file name is bytes; a table must not lose them."""
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    files.write_csv(tmp_path / "t.csv", ("path",), [(name,)])
    assert files.read_csv(tmp_path / "t.csv", ("path",)) == [{"path": name}]


def plain(folder):
    (folder / "out.csv").write_text("old\n")
    return folder / "out.csv", folder / "out.csv"


def link(folder):
    (folder / "disk").mkdir()
    (folder / "disk" / "real.csv").write_text("old\n")
    (folder / "out.csv").symlink_to(folder / "disk" / "real.csv")
    return folder / "out.csv", folder / "disk" / "real.csv"


def relative_link(folder):
    _, target = link(folder)
    (folder / "out.csv").unlink()
    (folder / "out.csv").symlink_to(os.path.join("disk", "..", "disk", "real.csv"))
    return folder / "out.csv", target


def chain(folder):
    _, target = link(folder)
    (folder / "second.csv").symlink_to("out.csv")
    (folder / "third.csv").symlink_to(folder / "second.csv")
    return folder / "third.csv", target


def linked_folder(folder):
    _, target = link(folder)
    (folder / "OUT").symlink_to("disk")
    return folder / "OUT" / "real.csv", target


def dangling(folder):
    path, target = link(folder)
    target.unlink()
    return path, target


def dangling_folder(folder):
    (folder / "OUT").symlink_to(folder / "not yet there")
    return folder / "OUT" / "out.csv", folder / "not yet there" / "out.csv"


LINKS = [link, relative_link, chain, linked_folder, dangling, dangling_folder]


def links_below(folder):
    """Map each link below a folder to where it leads."""
    return {path: os.readlink(path) for path in folder.rglob("*") if path.is_symlink()}


def partials(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".onepass")]


@pytest.mark.parametrize("made", [plain, *LINKS])
def test_an_output_that_is_a_link_stays_one_and_its_target_is_replaced_whole(tmp_path, made):
    """Whoever has the old target open goes on reading the old bytes; all links are as they were; no partial is left."""
    path, target = made(tmp_path)
    links = links_below(tmp_path)
    reader = target.open() if target.exists() else None
    files.write_csv(path, ("a",), [("new",)])
    assert target.read_text() == path.read_text() == "a\nnew\n"
    assert not target.is_symlink()
    assert links_below(tmp_path) == links
    assert partials(tmp_path) == []
    if reader:
        with reader:
            assert reader.read() == "old\n"


@pytest.mark.parametrize("made", LINKS)
def test_a_kill_behind_a_link_leaves_the_old_file_and_a_partial_that_the_next_sweep_finds(tmp_path, made):
    """Beside the target, under the target's name; what others left there, or a process that lives, is not touched."""
    path, target = made(tmp_path)
    code = f"""
import os, signal
from pathlib import Path
from extract.ground import files
with files.replacing(Path({str(path)!r})) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert [each.parent for each in partials(tmp_path)] == [target.parent]
    assert not target.exists() or target.read_text() == "old\n"
    others = {target.parent / ".onepass-tmp-1-another.csv", target.parent / f".onepass-tmp-1-{target.name}"}
    for other in others:  # process 1 lives
        other.write_text("somebody's")
    files.sweep(path.parent)
    assert set(partials(tmp_path)) == others


@pytest.mark.parametrize("kind", ["circle", "missing folder", "chain to a missing folder", "missing folder above"])
def test_a_link_that_nothing_can_be_written_behind_is_refused(tmp_path, kind):
    """Folders are not made there: on a disk that is not mounted they would hide what is written."""
    path, leads = tmp_path / "out.csv", tmp_path / "unmounted" / "x" / "out.csv"
    if kind == "circle":
        path.symlink_to("other")
        (tmp_path / "other").symlink_to("out.csv")
    elif kind == "missing folder above":
        (tmp_path / "OUT").symlink_to(leads)
        path = tmp_path / "OUT" / "out.csv"
    else:
        (tmp_path / "second").symlink_to(leads)
        path.symlink_to("second" if kind.startswith("chain") else leads)
    links = links_below(tmp_path)
    with refusal("link-broken", tmp_path):
        files.write_csv(path, ("a",), [])
    assert links_below(tmp_path) == links
    assert not (tmp_path / "unmounted").exists()


def head(folder, text):
    (folder / "head.json").write_text(text)


@pytest.mark.parametrize("before", ["a head", "an empty folder", "nothing"])
def test_a_folder_behind_a_link_is_replaced_as_a_whole(tmp_path, before):
    """The link stays; a failure leaves what was there."""
    disk, path = tmp_path / "disk", tmp_path / "heads" / "logistic"
    path.parent.mkdir()
    path.symlink_to("../disk")
    if before != "nothing":
        disk.mkdir()
    if before == "a head":
        head(disk, "old")
        (disk / "gone").touch()
    with pytest.raises(RuntimeError), files.replacing_folder(path) as folder:
        head(folder, "half")
        raise RuntimeError
    assert [each.read_text() for each in disk.glob("head.json")] == ["old"] * (before == "a head")
    with files.replacing_folder(path) as folder:
        head(folder, "new")
    assert os.readlink(path) == "../disk"
    assert [each.name for each in disk.iterdir()] == ["head.json"]
    assert (path / "head.json").read_text() == "new"
    assert partials(tmp_path) == []


def test_a_link_to_a_folder_of_somebodys_own_is_refused(tmp_path):
    """Photos, say: replacing it as a whole would delete them."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "link").symlink_to("photos")
    link, photos = tmp_path / "link", tmp_path / "photos"
    with refusal("link-target-in-use", link, photos), files.replacing_folder(link):
        pass
    assert [each.name for each in photos.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_at_any_rename_of_a_folder_behind_a_link_leaves_the_old_or_the_new_one(tmp_path, renames):
    """Between the two renames neither has its name; the next sweep of the link's folder puts the old one back."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "heads").mkdir()
    head(tmp_path / "disk", "old")
    path = tmp_path / "heads" / "logistic"
    path.symlink_to(tmp_path / "disk")
    code = f"""
import os, signal
from pathlib import Path
from extract.ground import files
done, rename = [], os.rename
def killed(*names):
    if len(done) == {renames}:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(rename(*names))
os.rename = killed
files.shutil.rmtree = lambda *a, **k: killed()
with files.replacing_folder(Path({str(path)!r})) as folder:
    (folder / "head.json").write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert partials(tmp_path)
    files.sweep(tmp_path / "heads")
    assert (path / "head.json").read_text() == ("new" if renames == 2 else "old")
    assert path.is_symlink()
    assert partials(tmp_path) == []


def hard_link(folder):
    os.link(folder / "mine.csv", folder / "other.csv")
    return folder / "other.csv"


def other_spelling(folder):
    (folder / "sub").mkdir()
    return folder / "sub" / ".." / "mine.csv"


def links_link(folder):
    (folder / "one").symlink_to("mine.csv")
    (folder / "two").symlink_to(folder / "one")
    return folder / "two"


def through_a_linked_folder(folder):
    (folder / "sub").symlink_to(".")
    return folder / "sub" / "mine.csv"


def folder_of_it(folder):
    (folder / "sub").mkdir()
    os.link(folder / "mine.csv", folder / "sub" / "x")
    return folder / "sub"


@pytest.mark.parametrize("spelled", [hard_link, other_spelling, links_link, through_a_linked_folder, folder_of_it])
@pytest.mark.parametrize("turned", [False, True], ids=["as target", "as input"])
def test_a_file_is_known_by_itself_and_not_by_its_name(tmp_path, spelled, turned):
    """As the target of a verb, or among what it reads; equal bytes alone are another file."""
    mine = tmp_path / "mine.csv"
    mine.write_text("objectId,value\n")
    (tmp_path / "equal.csv").write_text("objectId,value\n")
    target, read = (spelled(tmp_path), mine) if not turned else (mine, spelled(tmp_path))
    others = [tmp_path / "gone", tmp_path / "equal.csv", "/dev/null", str(tmp_path / "a\0b")]
    files.refuse_inputs([target, tmp_path / "not there"], others, then="")
    with refusal("output-is-input", target):
        files.refuse_inputs([tmp_path / "not there", target], [*others, str(read)], then="")


def test_what_a_table_cannot_be_written_to_is_refused_at_the_start(tmp_path):
    """A folder; and a kill's partial beside the user's own output goes."""
    with refusal("output-not-a-file", tmp_path):
        files.refuse_output(tmp_path, [])
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in ("p.csv", "another.csv"):
        (tmp_path / f".onepass-tmp-{dead.pid}-{name}").touch()
    files.refuse_output(tmp_path / "p.csv", [])
    assert [each.name for each in partials(tmp_path)] == [f".onepass-tmp-{dead.pid}-another.csv"]


WRITES = "from pathlib import Path; from extract.ground import files; "
WRITES += "files.write_csv(files.output({!r}), ('a',), [('caf\\xe9',)])"
WRITTEN = "a\ncafé\n".encode()


def run_writing(output, **options):
    code = WRITES.format(str(output))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, **options)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("where", ["pipe", "file", "end of a file", "socket"])
def test_standard_output_is_written_to_whatever_it_is(tmp_path, name, where):
    """A file that the shell opened is not replaced, and what stands in it before stays."""
    if name == "link":
        name = tmp_path / "link"
        name.symlink_to("/dev/stdout")
    if where == "pipe":
        assert run_writing(name, stdout=subprocess.PIPE).stdout == WRITTEN
    elif where == "socket":
        ours, theirs = socket.socketpair()
        with ours, theirs:
            run_writing(name, stdout=theirs.fileno())
            assert ours.recv(99) == WRITTEN
    else:
        path = tmp_path / "out.csv"
        path.write_bytes(b"first\n")
        inode = path.stat().st_ino
        with path.open("ab" if where != "file" else "r+b") as file:
            file.seek(6)
            run_writing(name, stdout=file)
        assert (path.read_bytes(), path.stat().st_ino) == (b"first\n" + WRITTEN, inode)
    assert os.path.islink("/dev/stdout")
    assert not (ROOT / "-").exists()


def test_a_file_named_like_standard_outputs_sign_can_be_asked_for(tmp_path, monkeypatch):
    """As everywhere: ./-"""
    monkeypatch.chdir(tmp_path)
    files.write_csv(files.output("./-"), ("a",), [])
    assert [each.name for each in tmp_path.iterdir()] == ["-"]


def test_a_pipe_a_terminal_and_a_device_are_written_through(tmp_path):
    """And are afterwards what they were."""
    fifo, linked = tmp_path / "fifo", tmp_path / "linked"
    os.mkfifo(fifo)
    linked.symlink_to(fifo)
    for path in (fifo, linked):
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(fifo.read_bytes)
            files.write_csv(path, ("a",), [("café",)])
            assert read.result(timeout=30) == WRITTEN
    ours, theirs = os.openpty()
    files.write_csv(Path(os.ttyname(theirs)), ("a",), [("café",)])
    assert os.read(ours, 99).replace(b"\r\n", b"\n") == WRITTEN
    assert stat.S_ISCHR(os.stat(os.ttyname(theirs)).st_mode)
    os.close(ours), os.close(theirs)
    null = tmp_path / "null"
    with suppress(PermissionError):  # only root may make a device
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        files.write_csv(null, ("a",), [("café",)])
        assert stat.S_ISCHR(null.lstat().st_mode)
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert linked.is_symlink()
    assert partials(tmp_path) == []


@pytest.mark.parametrize("number", sorted(files.NO_LOCKS))
def test_a_file_system_without_locks_is_named_with_a_way_out(tmp_path, monkeypatch, number):
    """NFS without lockd, some FUSE and cluster file systems; nothing is left lying."""

    def refused(*given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", refused)
    path = tmp_path / ".features.h5.lock"
    with refusal("no-file-locks", path, "HDF5_USE_FILE_LOCKING"), files.lock(path, "it"):
        pass
    assert not path.exists()


def test_all_links_to_an_output_have_one_lock(tmp_path):
    """Two OUTs whose caches are links to one file must not both write it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "features.h5").symlink_to("../features.h5")
    (tmp_path / "b").symlink_to(".")
    names = [tmp_path / "features.h5", tmp_path / "a" / "features.h5", tmp_path / "b" / "a" / "features.h5"]
    assert {files.lock_of(name) for name in names} == {tmp_path / ".features.h5.lock"}


@pytest.mark.parametrize("line", [1, 2, 5])
@pytest.mark.parametrize("cell", [0, 1])
def test_a_table_of_ours_with_a_stray_quote_is_damaged_not_shorter(tmp_path, line, cell):
    """Rows that a quote took in would be forgotten: splits made anew, failures tried again."""
    path = tmp_path / "t.csv"
    files.write_csv(path, ("a", "b"), [(f"x{i}", f"y{i}") for i in range(5)])
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[line][cell] = '"' + lines[line][cell]
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    with refusal("record-damaged", path):
        files.read_rows(path, ("a", "b"))
