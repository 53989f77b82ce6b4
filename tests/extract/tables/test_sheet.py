"""A table is read as people save it, whatever saved it, and no row of it is lost in silence."""

import csv
import io
import zipfile

import pytest

from extract.files import manifest
from extract.tables import labels, sheet
from extract.tables.task import Task
from tests.support.album import encoded, picture
from tests.support.refusal import refusal

ROWS = [(f"{i:04d}", str(i % 2), f"note {i}") for i in range(12)]


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def saved(delimiter=",", end="\n", rows=ROWS, header=("objectId", "value", "note")):
    """The rows as the standard library writes them."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows([header, *rows])
    return text.getvalue()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (saved(";"), "utf-8"),
        (saved("\t"), "utf-8-sig"),
        ("sep=;\r\n" + saved(";", "\r\n"), "utf-8-sig"),
        ('"sep=|"\n' + saved("|"), "utf-8"),
        ("SEP=\t\n" + saved("\t"), "utf-8"),
        (saved("\t", "\r\n"), "utf-16"),
        ("\ufeff" + saved(","), "utf-16-be"),
        (saved(";", "\r"), "utf-8"),
        ("\n\n" + saved(","), "utf-8"),
    ],
)
def test_whatever_delimiter_encoding_and_line_ends_a_program_chose_the_rows_are_the_same(tmp_path, text, encoding):
    """Excel's semicolons, sep= and Unicode text, tabs, old Macs' line ends; blank lines above."""
    table = sheet.read(written(tmp_path, text, encoding))
    assert list(zip(table["objectId"], table["value"], strict=True)) == [row[:2] for row in ROWS]


def test_line_numbers_are_those_of_the_file_also_below_a_line_that_names_the_delimiter(tmp_path):
    """A message must lead to the row."""
    with refusal("table-cell-count", "line 4"):
        sheet.read(written(tmp_path, "sep=;\nobjectId;value\na;0\nb\n"))


@pytest.mark.parametrize("blank", ["", " ", "\u00a0"])
def test_empty_columns_and_rows_at_the_ends_are_nothing(tmp_path, blank):
    """What a spreadsheet saves of cells that were once touched."""
    tail = f",{blank},{blank}"
    text = f"objectId,value{tail}\na,0{tail}\n,{tail}\nb,1{tail}\n" + f",{tail}\n" * 3
    table = sheet.read(written(tmp_path, text))
    assert table["objectId"].tolist() == ["a", "b"]
    assert table.index.tolist() == [2, 4]


def test_a_cell_beyond_the_header_is_refused(tmp_path):
    """An id with a comma in it would otherwise lose its end."""
    with refusal("table-cell-count", "line 3"):
        sheet.read(written(tmp_path, "objectId,value,\na,0,\nb,1,x\n"))


def test_one_column_is_enough_where_only_ids_are_asked_for(tmp_path):
    """make predict needs no labels, in whatever dialect."""
    for text in ("objectId\na b\nc\n", "sep=;\nobjectId\na b\nc\n", "objectId;\na b;\nc;\n"):
        table = manifest.read_table(written(tmp_path, text), required=("objectId",))
        assert table["objectId"].tolist() == ["a b", "c"]


def opened(line, where):
    """ROWS with a stray quote before the cell `where` of one row."""
    rows = [[*row] for row in ROWS]
    lines = [",".join(row) for row in rows]
    cells = rows[line - 2]
    lines[line - 2] = ",".join([*cells[:where], '"' + cells[where], *cells[where + 1 :]])
    return ["objectId,value,note", *lines]


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("line", [2, 7, 13])
def test_a_quote_that_is_never_closed_is_refused_with_its_line(tmp_path, line, where):
    """It would take in all rows below it."""
    with refusal("table-stray-quote", f"line {line}:"):
        sheet.read(written(tmp_path, "\n".join(opened(line, where)) + "\n"))


@pytest.mark.parametrize("closing", [4, 5, 9])
def test_a_stray_quote_that_meets_another_one_is_refused_with_the_line_of_the_first(tmp_path, closing):
    """The rows between the two would vanish, though each row has the right number of cells."""
    lines = opened(3, 2)
    lines[closing - 1] += '"'
    rows = list(csv.reader(lines, strict=True))
    assert len(rows) < len(lines), "the csv module alone takes rows in"
    assert {len(row) for row in rows} == {3}
    with refusal("table-stray-quote", "line 3:"):
        sheet.read(written(tmp_path, "\n".join(lines) + "\n"))


@pytest.mark.parametrize(
    ("where", "blanks"), [(0, ["", ""]), (1, ["", ""]), (2, ["", ""]), (3, ["", ""]), (3, ["", ","]), (2, [",,", ",,"])]
)
def test_two_stray_quotes_in_adjacent_rows_are_refused(tmp_path, where, blanks):
    """What lies between them is the end of one row and the beginning of the next, and the cells come out even."""
    rows = [[f"id{i}", str(i % 2), f"group{i}", f"note{i}"] for i in range(6)]
    rows[2][where] = '"' + rows[2][where]
    rows[3][where] += '"'
    lines = [",".join(row) for row in rows]
    lines[2] += blanks[0]
    lines[3] += blanks[1]
    assert len(list(csv.reader(lines, strict=True))) == 5, "the csv module alone takes a row in"
    with refusal("table-stray-quote", "line 4:"):
        sheet.read(written(tmp_path, "\n".join(["objectId,value,group,note", *lines]) + "\n"))


def test_a_stray_quote_that_another_one_closes_a_column_before_it_is_refused(tmp_path):
    """The cell too many is empty, as those of a spreadsheet are."""
    text = 'objectId,value,group,note\na,0,g,"x\nb,1,h",\nc,1,i,y\n'
    with refusal("table-stray-quote", "line 2:"):
        sheet.read(written(tmp_path, text))


def test_a_stray_quote_above_more_text_than_a_cell_may_hold_is_refused_with_its_line(tmp_path):
    """The csv module speaks of a field limit and of the line where it gave up."""
    rows = [(f"{i:05d}", "0", "x" * 50) for i in range(5000)]
    lines = saved(rows=rows).splitlines()
    lines[2] = lines[2].replace(",x", ',"x', 1)
    with refusal("table-stray-quote", "line 3:"):
        sheet.read(written(tmp_path, "\n".join(lines) + "\n"))


def test_quotes_that_are_text_and_cells_of_several_lines_stay_as_they_are(tmp_path):
    """Inches, doubled quotes, and a comment that somebody wrote in two lines."""
    text = 'objectId,value,group\na,0,12" wide\nb,1,"said ""no"""\nc,0,"one\ntwo, three"\nd,1,\ne,0,"a\nb, c, d, e"\n'
    table = sheet.read(written(tmp_path, text))
    assert table["group"].tolist() == ['12" wide', 'said "no"', "one\ntwo, three", "", "a\nb, c, d, e"]


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0", "\u202f", "\u3000", "\u200b", "\ufeff", "\u200e", " \u00a0 "])
def test_spaces_around_every_cell_go_and_are_said_with_a_count(tmp_path, space):
    """No-break, narrow, ideographic and zero-width ones too, which nobody sees."""
    header = "objectId,value,type,path,group"
    body = [f"{space}id {i},0{space},{space}train,{space}p {i}.jpg{space},g{space}" for i in range(3)]
    table = sheet.read(written(tmp_path, "\n".join([f"{space}{header}", *body, "last,1,test,,"]) + "\n"))
    assert table["objectId"].tolist() == ["id 0", "id 1", "id 2", "last"]
    assert table["path"].tolist() == ["p 0.jpg", "p 1.jpg", "p 2.jpg", ""]
    assert table["group"].tolist() == ["g", "g", "g", ""]
    assert set(table["type"]) == {"train", "test"}
    assert table.attrs["notes"][0].startswith("column objectId: spaces around 3 cells")
    assert table.attrs["notes"][1].startswith("column path: spaces around 3 cells")


def test_ids_that_are_one_without_their_spaces_are_one_id(tmp_path):
    """The same statement twice counts once, two different ones are refused."""
    assert len(sheet.read(written(tmp_path, "objectId,value\na,0\na ,0\n"))) == 1
    with refusal("table-conflicting-rows", "'a'", "column value", "'0' in line 2", "'1' in line 3"):
        sheet.read(written(tmp_path, "objectId,value\na,0\na\u00a0,1\n"))


def test_a_table_without_odd_spaces_or_words_has_no_notes(tmp_path):
    """Nothing is said where there is nothing to say."""
    assert sheet.read(written(tmp_path, saved())).attrs["notes"] == []


def workbook(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "<x/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (workbook("[Content_Types].xml", "xl/workbook.xml"), "Excel workbook"),
        (workbook("docProps/app.xml", "xl/workbook.xml"), "Excel workbook"),
        (workbook("photos/a.jpg"), "zip archive"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600), "binary data"),
        (encoded(picture(1)), "picture (JPEG)"),
        (encoded(picture(1), "PNG"), "picture (PNG)"),
        (encoded(picture(1), "JPEG", exif=b"Exif\0\0" + bytes(60_000)), "picture (JPEG)"),
        (encoded(picture(1), "TIFF"), "picture (TIFF)"),
        (b"PAR1" + bytes(99) + b"PAR1", "binary data"),
        (b'\n [{"objectId": "a", "value": 0}]', "JSON"),
        (b'{"objectId": ["a"]}', "JSON"),
        (b'{"objectId":["a","b"],"value":[0,1]}', "JSON"),
        (b'{"objectId":"a","value":0}\n{"objectId":"b","value":1}\n', "JSON"),
        (b'<table class="a" id="b">\n<tr><td>objectId,"value"</td></tr></table>', "HTML"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>Sign in</html>", "HTML"),
        (b"\x1f\x8b" + bytes(50), "binary data"),
        ("objectId,value\na,0\n".encode("utf-16-le"), "UTF-16 without its byte order mark"),
        (bytes(range(256)), "binary data"),
    ],
)
def test_what_is_no_table_is_named_for_what_it_is_and_none_of_its_bytes_is_shown(tmp_path, data, kind):
    """Whatever the file's name; the message says what to do instead."""
    with refusal("not-a-table", kind, "INPUT" if "picture" in kind else "CSV") as error:
        sheet.read(written(tmp_path, data))
    assert str(error.value).isprintable()


def test_names_of_columns_that_hold_control_characters_are_shown_as_python_writes_them(tmp_path):
    """A table from others must not steer the terminal."""
    with refusal("table-column-missing", r"\x1b[2Jid, \x07value"):
        sheet.read(written(tmp_path, "\x1b[2Jid,\x07value\n" + "a,0\n"))


@pytest.mark.parametrize("word", ["nan", "None", "NA", "null", "-", "N/A", "#N/A"])
def test_a_group_that_stands_for_nothing_is_pointed_out_and_stays_a_group(tmp_path, word):
    """All those rows are one group until the cells are emptied."""
    rows = [(name, value, word if i % 2 else f"g{i}") for i, (name, value, _) in enumerate(ROWS)]
    table = sheet.read(written(tmp_path, saved(rows=rows, header=("objectId", "value", "group"))))
    assert (table["group"] == word).sum() == 6
    assert table.attrs["notes"] == [
        f"column group: {word!r} is in 6 of 12 rows, which count as one group; leave such cells empty, "
        "if they mean nothing"
    ]


def test_a_value_that_stands_for_nothing_is_pointed_out(tmp_path):
    """It would be a class; `none` alone is a word of the product's own."""
    rows = [(name, ("nan", "none", "cat")[i % 3]) for i, (name, *_) in enumerate(ROWS)]
    notes = sheet.read(written(tmp_path, saved(rows=rows, header=("objectId", "value")))).attrs["notes"]
    assert [note.split(" rows")[0] for note in notes] == ["column value: 'nan' is in 4 of 12"]


def test_columns_of_the_users_own_may_share_a_name(tmp_path):
    """Only ours must be unique."""
    table = sheet.read(written(tmp_path, "objectId,note,value,note,\na,x,1,y,\n"))
    assert table["value"].tolist() == ["1"]


def test_columns_of_labels_are_read_as_values(tmp_path):
    """1, 0 and empty: what nobody knows stays unknown, and an all-empty row is unlabelled."""
    (tmp_path / "t.csv").write_text("objectId,label:legs,label:long sleeves\na,1,0\nb,0,0\nc,,1\nd,,\n")
    table = manifest.read_table(tmp_path / "t.csv")
    assert table["value"].tolist() == ["legs", "none", "?legs|long sleeves", ""]
    said = labels.read(table, labels.Known({}), tmp_path, labels.check(table, tmp_path, None))
    assert said.task == Task("multilabel", ("legs", "long sleeves"))
    assert said.y.tolist() == [[1, 0], [0, 0], [-1, 1], [-1, -1]]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("objectId,label:a\nx,2\n", "label-cell-invalid"),
        ("objectId,value,label:a\nx,a,1\n", "value-beside-labels"),
        ("objectId,label:none\nx,1\n", "class-name-reserved"),
        ("objectId,label:a,label:a\nx,1,1\n", "table-column-duplicate"),
        ("objectId,label:a,label:b\nx,1,0\ny,0,0\n", "label-constant"),
    ],
)
def test_columns_of_labels_that_cannot_be_right_are_refused(tmp_path, text, code):
    (tmp_path / "t.csv").write_text(text)
    with refusal(code):
        labels.check(manifest.read_table(tmp_path / "t.csv"), tmp_path / "t.csv", None)
