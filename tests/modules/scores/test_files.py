"""Files of outputs and references: the forms that are read, and mistakes in them."""

import pytest

from modules.scores import files, score
from variants.errors import UserError


def test_tables(tmp_path):
    references = tmp_path / "refs.csv"
    references.write_text('\ufeff"mr","ref"\na[1],"x, ""y"""\na[1],Â£5 cafÃ©\n\nb,z\na[1],late\n', encoding="utf-8")
    table = tmp_path / "out.tsv"
    table.write_text("System Output\tMR\nbee\tb\nay\ta[1]\nay again\ta[1]\n", encoding="utf-8")
    a = ['x, "y"', "£5 café", "late"]
    assert files.read(references, table) == (["bee", "ay", "ay again"], [["z"], a, a])
    plain = tmp_path / "out.txt"
    plain.write_text("1\n\n3\n", encoding="utf-8")
    assert files.read(references, plain) == (["1", "", "3"], [a[:2], ["z"], ["late"]])
    single = tmp_path / "refs.txt"
    single.write_text("p\nq\nr\n", encoding="utf-8")
    assert files.read(single, plain) == (["1", "", "3"], [["p"], ["q"], ["r"]])


@pytest.mark.parametrize(
    "references, outputs, message",
    [
        (("r.txt", "a\n\nb\n"), ("o.txt", "a\n"), "1 outputs but 2 groups"),
        (("r.txt", "a\n\n\nb\n"), ("o.txt", "a\nb\n"), "r.txt, line 3: an empty reference group"),
        (("r.csv", "mr,ref\na,\nb,x\n"), ("o.txt", "a\nb\n"), "reference group 1 is empty"),
        (("r.csv", "id,text\na,b\n"), ("o.txt", "a\n"), "no columns for an input among 'id', 'text'"),
        (("r.csv", "mr,ref,reference\na,b,c\n"), ("o.txt", "a\n"), "2 columns for a reference"),
        (("r.csv", "mr,ref\na,b,c\n"), ("o.txt", "a\n"), "row 1: 3 columns"),
        (("r.csv", "mr,ref\na,b\n"), ("o.csv", "mr,output\nc,d\n"), "no reference for the input 'c'"),
        (("r.csv", ""), ("o.txt", ""), "is empty"),
        (("r.txt", ""), ("o.txt", ""), "nothing to score"),
    ],
)
def test_mistakes_are_one_line(tmp_path, references, outputs, message):
    for name, text in (references, outputs):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        score(*files.read(tmp_path / references[0], tmp_path / outputs[0]))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_in_plain_text_is_no_part_of_a_word(tmp_path):
    """It would lower BLEU without a word: 0.75 for 1.0."""
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_text("The Eagle is a pub.\n")
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert files.read(marked, marked) == files.read(plain, plain)
