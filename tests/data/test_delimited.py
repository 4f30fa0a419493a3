"""CSV and TSV as other tools write them: read as they meant it, or refused with what to type."""

from pathlib import Path

import pytest

from distilkit.data.files import read_file
from distilkit.errors import UserError

COLUMNS = ["text", "label"]


def read(file: Path, content: str) -> list[tuple[str, str]]:
    file.write_text(content, encoding="utf-8")
    rows, column_names = read_file(file, COLUMNS)
    for column in COLUMNS:
        column_names.require(column, str(file), "Name it.")
    return list(zip(rows["text"], rows["label"], strict=True))


@pytest.mark.parametrize(("ending", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_a_row_longer_than_the_readers_block_is_read(ending: str, mark: str, tmp_path: Path) -> None:
    text = "x" * (5 << 20)
    content = f"text{mark}label\nshort{mark}a\n{text}{mark}b\nshort{mark}a\n"
    assert read(tmp_path / f"a{ending}", content) == [("short", "a"), (text, "b"), ("short", "a")]


def test_a_tsv_that_pandas_quoted_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    """Read as GLUE's files are, texts would keep doubled quotation marks: other tokens, no error."""
    pandas = pytest.importorskip("pandas")
    texts = ['he said "no"', "plain", "a\ttab", "two\nlines", 'ends with "']
    for some in (texts[:2], texts[1:3], texts[1:4], texts):
        pandas.DataFrame({"text": some, "label": "x"}).to_csv(tmp_path / "p.tsv", sep="\t", index=False)
        content = (tmp_path / "p.tsv").read_text(encoding="utf-8")
        assert read(tmp_path / "a.tsv", content) == [(text, "x") for text in some]
    assert read(tmp_path / "a.tsv", '"text"\t"label"\n"a"\t"x"\n') == [("a", "x")]


@pytest.mark.parametrize(
    "texts",
    [
        ['"so he said', "and on", 'till "he stopped'],
        ['"begins here', 'ends here"'],
        ['a 5" screen', "b"],
        ['"quoted whole"', "b"],
        ['"doubled ""here"""', 'but "not here'],
        ['""', '"'],
    ],
)
def test_quotation_marks_in_glues_files_are_characters(texts: list[str], tmp_path: Path) -> None:
    """Read as quotes, they would swallow rows or vanish from texts."""
    content = "text\tlabel\n" + "".join(f"{text}\tx\n" for text in texts)
    assert read(tmp_path / "a.tsv", content) == [(text, "x") for text in texts]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("text;label\na film;pos\n", ["no column 'text', only 'text;label'", "semicolons", "sep=';'"]),
        ("text;label\na film, long;pos\n", ["row 1 has 2 columns", "semicolons", "sep=';'"]),
        ("text\tlabel\na film\tpos\n", ["tabs", "a.tsv"]),
        ('text,label\n"a \\"so, so\\" film",pos\n', ["row 1 has 3 columns", "a backslash"]),
        ("text|label\na film|pos\n", ["bars", "sep='|'"]),
        ("text, label\na film, pos\n", ["no column 'label', only 'text', ' label'", "skipinitialspace=True"]),
        ('text, label\n"a film", "pos"\n', ["' label'", "skipinitialspace=True"]),
        ("a very dull film indeed,neg\na film,pos\n", ["first row looks like data", "text,label"]),
        ("0,14678,someone\n4,14678,someone\n", ["first row looks like data"]),
        ("sep=,\ntext,label\na film,pos\n", ["'sep=,'", "a note to Excel", "remove that line"]),
        ('"sep=;"\ntext;label\na film;pos\n', ["'sep=;'", "a note to Excel"]),
        ("SEP=|\ntext,label\na film,pos\n", ["a note to Excel"]),
        ("# of May\ntext,label\na film,pos\n", ["begins with #", "remove that line"]),
        ("#text,label\na film,pos\n", ["begins with #", "only the #"]),
        ("text,label\na film,pos,\n", ["row 1 has 3 columns", "ends with a separator"]),
        ("text,label\na film,pos\n(1 row affected)\n", ["row 2 has 1 column", "a remark and no row"]),
        ("body,label\na,b\n", ["no column 'text', only 'body', 'label'. Name it."]),
    ],
)
def test_another_separator_blanks_and_a_missing_header_are_recognised(
    content: str, named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.csv", content)
    for text in named:
        assert text in str(error.value), error.value


def test_a_header_that_is_not_utf8_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label,größe\na,b,c\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"in the header: the text is not UTF-8.*größe.* iconv -f LATIN1"):
        read_file(tmp_path / "a.csv", COLUMNS)


def test_commas_in_a_tsv_are_pointed_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"separated by commas: rename it to a\.csv"):
        read(tmp_path / "a.tsv", "text,label\na film,pos\n")


def test_a_row_of_more_columns_has_the_number_that_texts_and_labels_have(tmp_path: Path) -> None:
    """Arrow counts the header, all else here does not."""
    with pytest.raises(UserError, match=r"row 3 has 3 columns, the header 2 columns: 'c, d,0'"):
        read(tmp_path / "a.csv", 'text,label\n"a\nb",0\nb,1\nc, d,0\n')


def test_a_header_that_comes_up_again_is_no_row(tmp_path: Path) -> None:
    """Files joined by `cat` would have a class called label."""
    with pytest.raises(UserError, match="row 3: it repeats the header"):
        read(tmp_path / "a.csv", "text,label\na,0\nb,1\ntext,label\nc,1\n")


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"row {i},0\n" for i in range(200_000))
    for start in ('text,label\n"a,0\n', 'text,label\na,0\n"b'):
        with pytest.raises(UserError, match=r"a\.csv .*row [12] has 1 column.* never closed"):
            read(tmp_path / "a.csv", start + rows)
