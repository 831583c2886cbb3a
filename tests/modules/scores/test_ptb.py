"""The tokeniser against Stanford's own program: fixed tokens everywhere, the program itself where it can be had."""

import csv
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.scores import java
from modules.scores.ptb import captions, tokenize

# Obtained by `java -cp stanford-corenlp-3.4.1.jar edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase`, the
# call of the COCO caption tools, with the jar of pycocoevalcap 1.2. "␣" stands for a no-break space.
KNOWN = {
    "": "",
    "It's £20 to £30, isn't it?": "it 's # 20 to # 30 , is n't it ?",
    "\"Good\" food—really; 'nice' one...": "`` good '' food -- really ; ` nice ' one ...",
    "Café Adriatic's price is 5-10 stars (cheap).": "café adriatic 's price is 5-10 stars -lrb- cheap -rrb- .",
    "a < b & c &amp; d &lt; e": "a < b & c & d < e",
    "can't cannot gonna they've WON'T o'clock 'tis": "ca n't can not gon na they 've wo n't o'clock 't is",
    "rock 'n' roll '90s 90's the boys' food's": "rock 'n' roll '90s 90 's the boys ' food 's",
    "$5.50 US$5 €10 ¥100 10% 1,000.50 1/2": "$ 5.50 us$ 5 $ 10 ¥ 100 10 % 1,000.50 1/2",
    "3 1/2 stars, 3.5/5": "3␣1/2 stars , 3.5 / 5",
    "£20-£25 20-25£ 10a.m. 6pm": "# 20 - # 25 20-25 # 10a . m. 6pm",
    "Mr. Smith of the U.S. The food": "mr. smith of the u.s. . the food",
    "by Inc. The pub by Inc. the pub by Inc., the Inc.": "by inc. . the pub by inc. the pub by inc. , the inc. .",
    "No. 5, no. 5, say no. Then no. p. 5": "no. 5 , no. 5 , say no . then no . p. 5",
    "x art. 5 pp. 5 fig. 5 figs. 5 vol. 5 op. 5 ca. 5": "x art. 5 pp. 5 fig. 5 figs. 5 vol . 5 op. 5 ca. 5",
    "www.x.com http://example.com/a?b=c t@mail.com #hash": "www.x.com http://example.com/a?b=c t@mail.com #hash",
    "wait... wait.. what?! yes!! no!!! .": "wait ... wait . . what ?! yes !! no !!! .",
    "[city] {riverside} <b>bold</b>": "-lsb- city -rsb- -lcb- riverside -rcb- <b> bold </b>",
    "“smart” ‘quotes’ don’t it’s – — …": "`` smart '' ` quotes ' do n't it 's -- -- ...",
    "• ™ 5° ½ 1½ ² ×": "• ™ 5 ° 1/2 1 1/2 ² ×",
    "A_b a*b a\\b and/or -- dash --- dash - dash": "a_b a * b a \\ b and/or -- dash -- dash - dash",
    ":) ;-) 8) (0114) 555-1234": ":-rrb- ;--rrb- 8 -rrb- -lrb- 0114 -rrb- 555-1234",
    "in the city center., a place": "in the city center. , a place",
    "ÉCOLE Ñandú Straße 日本語 emoji 😀 here": "école ñandú straße 日本語 emoji here",
    "AT&T R&B fish&chips C++ 4.5-star": "at&t r&b fish & chips c++ 4.5-star",
}

PIECES = r"""
    a b A I the The An He We food's boys' it's don’t can't cannot gonna 'tis 'em 'n' y'all ma'am O'Brien
    d'x o'clock ' " ` `` '' ’ ‘ “ ” . , ; : ! ? .. ... … - -- --- – — _ ( ) [ ] { } < > / \ | & &amp; @
    # $ £ € % * + = ~ ^ ° é É ñ 1 2 5 10 20 555 1234 7946 0958 1,000 3.5 .5 1/2 5/5 ½ '90s 2003 10:30
    7pm -5 £20-25 £20-£25 5-star 4.5-star x-y-z U.S. p.m. e.g. etc. Inc. inc. Co. Ltd. Mr. Dr. St. No.
    no. vs. Ph.D. J. p. Jan. Wash. mass. city Café family-friendly and/or pro- R&B AT&T www.x.com
    http://a.b/c x@y.z #tag @user x.org a.txt :) ;-) <b> </b> <br/> ★ ™ 日本
"""
ATOMS = PIECES.split()


def odd_lines(count: int, seed: int) -> list[str]:
    """Lines of odd pieces, with and without spaces between them, and of any ASCII."""
    draw = random.Random(seed)
    ascii_characters = [chr(code) for code in range(32, 127)] + [" "] * 20
    lines = []
    for _ in range(count):
        pieces = ["".join(draw.choices(ascii_characters, k=draw.randint(1, 20)))] if draw.random() < 0.3 else []
        pieces += [draw.choice(ATOMS) + draw.choice(["", " ", " ", "  "]) for _ in range(draw.randint(1, 10))]
        lines.append("".join(pieces).strip())
    return lines


def test_known_tokens():
    # A closing line in small letters: what ends the text can end a sentence.
    got = dict(zip(KNOWN, tokenize([*KNOWN, "end"]), strict=False))
    assert {line: tokens.replace("\xa0", "␣") for line, tokens in got.items()} == KNOWN


def test_a_line_looks_into_the_next():
    assert tokenize(["in the U.S.", "The pub"]) == ["in the u.s. .", "the pub"]
    assert tokenize(["in the U.S.", "a pub"]) == ["in the u.s.", "a pub"]
    assert tokenize(["by Inc."]) == ["by inc. ."]


def test_captions_lose_punctuation_but_keep_brackets(monkeypatch):
    monkeypatch.setattr(java, "stanford", lambda lines: None)
    assert captions(["A pub (cheap), isn't it?", "", "..."]) == ["a pub -lrb- cheap -rrb- is n't it", "", ""]
    assert captions(["one\u2028line"]) == ["one line"]


@pytest.mark.slow
@given(st.lists(st.text(max_size=40).filter(lambda text: len(f"a{text}b".splitlines()) == 1), max_size=5))
@settings(deadline=None, max_examples=100)
def test_any_text_keeps_its_lines(lines):
    tokenized = tokenize([*lines, "end"])
    assert len(tokenized) == len(lines) + 1
    assert all(line == line.strip(" ") and "  " not in line and line == line.lower() for line in tokenized)


@given(st.lists(st.from_regex(r"\A[a-z]{2,8}\Z").filter(lambda w: w not in ("cannot", "gonna", "gotta")), max_size=9))
@settings(deadline=None, max_examples=50)
def test_plain_words_are_left_alone(words):
    line = " ".join(word for word in words if word not in ("wanna", "lemme", "gimme"))
    assert tokenize([line]) == [line]


def test_no_text_takes_long():
    start = time.perf_counter()
    for hard in ("a." * 2000, "<" * 2000, "'" * 2000, "1-" * 1000, "a@" * 500, "(" * 2000, "A&" * 1000, "-" * 5000):
        tokenize([hard])
    assert time.perf_counter() - start < 60  # seconds; a pattern that backtracks without end would take hours


stanfords = pytest.mark.skipif(
    java.missing() is not None, reason=f"Stanford's tokeniser cannot be compared with: {java.missing()}"
)


@stanfords
def test_known_tokens_are_stanfords():
    got = java.stanford([*KNOWN, "end"])[: len(KNOWN)]
    assert [line.rstrip(" ").replace("\xa0", "␣") for line in got] == list(KNOWN.values())


@pytest.mark.slow
@stanfords
def test_stanfords_tokens_of_odd_lines():
    lines = odd_lines(1500, seed=0)
    theirs = [line.rstrip(" ") for line in java.stanford(lines)]
    assert [(a, b, c) for a, b, c in zip(lines, theirs, tokenize(lines), strict=True) if b != c] == []


@pytest.mark.slow
@stanfords
@pytest.mark.skipif("E2E_DIR" not in os.environ, reason="E2E_DIR does not name a folder of the E2E challenge's files")
@pytest.mark.parametrize("name", ["devset.csv", "testset_w_refs.csv", "lora_format/test.txt"])
def test_stanfords_tokens_of_the_e2e_sets(name):
    path = Path(os.environ["E2E_DIR"], name)
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            lines = [row[1] for row in list(csv.reader(file))[1:]]
        else:
            lines = [line.rstrip("\n").split("||")[1] for line in file]
    theirs = [line.rstrip(" ") for line in java.stanford(lines)]
    assert len(lines) > 4500
    assert [(a, b, c) for a, b, c in zip(lines, theirs, tokenize(lines), strict=True) if b != c] == []


@pytest.mark.parametrize("unit", ["%", "<!a ", "A$", "a@", "www.1", "1a.", "A,", ",~", "'a"])
def test_time_grows_as_the_text_does(unit):
    """Long lines of symbols took time as the square of their length: 0.9 MB over 100 s."""
    started = time.perf_counter()
    tokenize([(unit * 40_000)[:40_000]])
    assert time.perf_counter() - started < 10


def test_a_pattern_that_looks_far_is_tried_where_it_can_match():
    text = "a%b.com x@y.z %%a.b.edu/c,d a.b-c www.x.co/y e-mail.txt, %..com z@ 1a.2b.pdf."
    assert tokenize([text]) == [
        "a%b.com x@y.z %%a.b.edu/c,d a.b-c www.x.co / y e-mail . txt , % . . com z @ 1a.2b.pdf ."
    ]
