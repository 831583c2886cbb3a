"""The E2E scores against numbers of the official scorer, independent formulas, properties, and on two processes.

The fixed numbers were obtained by running `measure_scores.py` of tuetschek/e2e-metrics (commit 1b9c4d8, default
options: mteval in Perl) on exactly these texts, with Java 17 and the jars of pycocoevalcap 1.2.
"""

import csv
import json
import math
import os
import string
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.scores import FORMULAS, coco, files, java, mteval, score
from variants.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
VAULTS = [
    "The Vaults pub near Café Adriatic has a 5 star rating.  Prices start at £30.",
    "Near Café Adriatic, The Vaults is a 5-star pub with prices from £30.",
]
REFERENCES = [
    VAULTS,
    ['Blue Spice is a "family-friendly" coffee shop, isn\'t it?'],
    [
        "It's a cheap (£20-25) pub in the U.S. The food is good...",
        "A cheap pub; prices: £20-25.",
        "Cheap pub food costs £20-25 in the U.S.",
    ],
    ["Zizzi is ÉLÉGANT & naïve: 3.5/5.", "Zizzi, rated 3.5 / 5, is élégant."],
    ["0 1 0 2 stars, 1,000 reviews - 10% off!"],
    VAULTS,
    [
        "<b>Green Man</b> &amp; Strada [city centre] {riverside} http://example.com/menu",
        "The 'Green Man' and “Strada” are by the riverside…",
    ],
    ["no"],
]
OUTPUTS = [
    "The Vaults, a 5-star pub near CAFÉ ADRIATIC, has prices from £30.",
    'Blue Spice is a "family-friendly" coffee shop.',
    "",
    "zizzi is élégant & NAÏVE: 3.5/5.",
    "0 1 stars, 1,000 reviews - 10% off",
    "The Vaults, a 5-star pub near CAFÉ ADRIATIC, has prices from £30.",
    "<b>Green Man</b> & Strada — by the riverside…",
    "No",
]
NAMES = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
OFFICIAL = {
    "several references": (OUTPUTS, REFERENCES, (0.5586, 4.0121, 0.4103, 0.7195, 4.2297)),
    "one reference": (OUTPUTS, [group[:1] for group in REFERENCES], (0.2924, 2.5522, 0.3686, 0.7012, 4.4219)),
    "no n-gram of the highest orders": (
        ["a cheap pub", "blue spice"],
        [["a cheap pub"], ["the pub", "blue spice pub"]],
        (1.0, 2.6363, 0.4725, 0.8861, 4.8022),
    ),
    "no match, and an empty output": (
        ["the dear restaurant of Rome", ""],
        [["a cheap pub in town"], ["the pub", "blue spice pub"]],
        (0.0358, 0.0, 0.0, 0.0, 0.0),
    ),
}
with_meteor = pytest.mark.skipif(java.missing() is not None, reason=f"not compared: {java.missing()}")


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda program: None)


@pytest.fixture(autouse=True)
def no_memory_of_captions():
    from modules.scores import _captions

    _captions.cache_clear()


@pytest.mark.parametrize("case", OFFICIAL)
def test_official_numbers_without_java(case, no_java):
    outputs, references, official = OFFICIAL[case]
    values, missing = score(outputs, references)
    assert tuple(values) == NAMES and values["METEOR"] is None and "Java" in missing["METEOR"]
    for name, number in zip(NAMES, official, strict=True):
        assert name == "METEOR" or f"{values[name]:.4f}" == f"{number:.4f}", name


@with_meteor
def test_official_numbers_with_java():
    outputs, references, official = OFFICIAL["several references"]
    values, missing = score(outputs, references)
    assert missing == {} and [f"{value:.4f}" for value in values.values()] == [f"{number:.4f}" for number in official]


@with_meteor
def test_a_java_that_fails_is_one_line(monkeypatch, tmp_path):
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    values, missing = score(*OFFICIAL["several references"][:2])
    assert values["METEOR"] is None and "Unable to locate a Java Runtime." in missing["METEOR"]
    assert f"{values['ROUGE_L']:.4f}" == "0.7195"


@pytest.mark.skipif("E2E_DIR" not in os.environ, reason="E2E_DIR does not name a folder of the E2E challenge's files")
def test_official_numbers_on_the_real_test_set(no_java, tmp_path):
    """The system under test says one reference of each input without every seventh word (METEOR: 0.4911)."""
    path = Path(os.environ["E2E_DIR"], "testset_w_refs.csv")
    groups: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in list(csv.reader(file))[1:]:
            groups.setdefault(row[0], []).append(row[1])
    with (tmp_path / "out.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mr", "output"])
        for i, (meaning, group) in enumerate(groups.items()):
            words = group[i % len(group)].split()
            writer.writerow([meaning, " ".join(word for j, word in enumerate(words) if j % 7 != 3)])
    values, _ = score(*files.read(path, tmp_path / "out.csv"))
    said = [f"{value:.4f}" for value in values.values() if value is not None]
    assert len(groups) == 630 and said == ["0.7169", "10.8292", "0.9094", "1.9875"]


# --- against independent formulas -----------------------------------------------------------------------------------

WORDS = st.lists(
    st.sampled_from(["the", "a", "pub", "cheap", "0", "5", "£20", "É", ",", "family-friendly"]), max_size=9
)
TEXTS = WORDS.map(" ".join)
GROUPS = st.lists(WORDS.filter(bool).map(" ".join), min_size=1, max_size=3)
CORPORA = st.lists(st.tuples(TEXTS, GROUPS), min_size=1, max_size=5).map(
    lambda rows: tuple(map(list, zip(*rows, strict=True)))
)
few = settings(deadline=None, max_examples=60)


def grams(words, n):
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def plain_nist(outputs, references):
    """NIST term by term (Doddington 2002, eq. 3), on texts whose tokens are their words; "0" counts as no history."""
    corpus = [
        (out.lower().split(), [ref.lower().split() for ref in group])
        for out, group in zip(outputs, references, strict=True)
    ]
    everything = [sum((grams(ref, n) for _, group in corpus for ref in group), Counter()) for n in range(1, 6)]
    words = sum(everything[0].values())
    total = 0.0
    for n in range(1, 6):
        gain = length = 0
        for out, group in corpus:
            for gram, count in grams(out, n).items():
                length += count
                hits = min(count, max(grams(ref, n)[gram] for ref in group))
                if hits:
                    before = words if n == 1 or gram[:-1] == ("0",) else everything[n - 2][gram[:-1]]
                    gain += hits * math.log2(before / everything[n - 1][gram])
        total += gain / max(1, length)
    share = sum(len(out) for out, _ in corpus) / words * sum(len(group) for _, group in corpus) / len(corpus)
    if share == 0:
        return 0.0
    return total * math.exp(math.log(0.5) / math.log(1.5) ** 2 * math.log(min(1, share)) ** 2)


DIGITS = st.lists(st.sampled_from(["the", "a", "pub", "0", "5"]), max_size=9)


@given(st.lists(st.tuples(DIGITS, st.lists(DIGITS.filter(bool), min_size=1, max_size=3)), min_size=1, max_size=5))
@few
def test_nist_is_doddingtons(rows):
    outputs = [" ".join(words) for words, _ in rows]
    references = [[" ".join(words) for words in group] for _, group in rows]
    assert mteval.nist(outputs, references) == pytest.approx(plain_nist(outputs, references), abs=1e-9)


@given(CORPORA)
@few
def test_bleu_is_sacrebleus_where_all_orders_occur(corpus):
    bleu = pytest.importorskip("sacrebleu", reason="sacrebleu (the extra test) is not installed").corpus_bleu
    outputs, references = corpus
    # sacrebleu gives 0 without any 4-gram, and lower-cases É; with one sure match and no É it has the same definition.
    outputs, references = [*outputs, "a pub in town"], [*references, ["a pub in town"]]
    outputs = [text.replace("É", "e") for text in outputs]
    references = [[text.replace("É", "e") for text in group] for group in references]
    most = max(map(len, references))
    columns = [[group[i] if i < len(group) else None for group in references] for i in range(most)]
    theirs = bleu(outputs, columns, lowercase=True, tokenize="13a", smooth_method="exp").score / 100
    assert mteval.bleu(outputs, references) == pytest.approx(theirs, abs=1e-9)


def longest_common(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common(a[:-1], b[:-1])
    return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))


@given(st.text("abc", min_size=1, max_size=6), st.text("abc", min_size=1, max_size=6))
@few
def test_rouge_l_is_the_f_score_of_the_longest_common_subsequence(a, b):
    common = longest_common(a, b)
    precision, recall = common / len(a), common / len(b)
    want = 2.44 * precision * recall / (recall + 1.44 * precision) if common else 0
    assert coco.rouge_l([" ".join(a)], [[" ".join(b)]]) == pytest.approx(want)


@with_meteor
def test_rouge_l_and_cider_are_pycocoevalcaps():
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    outputs = ["a cheap pub by the river", "", "the pub", "a a a b", "3\xa01/2 stars"]
    references = [["a pub by the river", "the cheap pub"], ["a b"], ["", "the pub"], ["a b a"], ["3\xa01/2 stars"]]
    theirs = dict(enumerate(references)), {i: [output] for i, output in enumerate(outputs)}
    assert coco.rouge_l(outputs, references) == pytest.approx(Rouge().compute_score(*theirs)[0], abs=1e-12)
    assert coco.cider(outputs, references) == pytest.approx(Cider().compute_score(*theirs)[0], abs=1e-12)


# --- properties -----------------------------------------------------------------------------------------------------


@given(CORPORA, st.randoms(use_true_random=False))
@few
def test_order_and_case_do_not_matter(corpus, draw):
    outputs, references = corpus
    rows = [(out, draw.sample(group, len(group))) for out, group in zip(outputs, references, strict=True)]
    draw.shuffle(rows)
    shuffled = tuple(map(list, zip(*rows, strict=True)))
    for formula in (mteval.bleu, mteval.nist, coco.rouge_l, coco.cider):
        assert formula(*shuffled) == pytest.approx(formula(outputs, references), abs=1e-9)
    louder = [output.translate(str.maketrans(string.ascii_lowercase, string.ascii_uppercase)) for output in outputs]
    assert mteval.bleu(louder, references) == mteval.bleu(outputs, references)
    assert mteval.nist(louder, references) == mteval.nist(outputs, references)


@given(CORPORA)
@few
def test_scores_keep_their_bounds(corpus):
    outputs, references = corpus
    assert 0 <= mteval.bleu(outputs, references) <= 1 and 0 <= coco.rouge_l(outputs, references) <= 1
    assert 0 <= coco.cider(outputs, references) <= 10 + 1e-9 and mteval.nist(outputs, references) >= 0
    first = [group[0] for group in references]
    assert mteval.bleu(first, references) == coco.rouge_l(first, references) == pytest.approx(1)
    empty = [""] * len(outputs)
    assert mteval.bleu(empty, references) == mteval.nist(empty, references) == coco.cider(empty, references) == 0


@given(st.text())
@few
def test_words_of_any_text_hold_no_space(text):
    assert all(word and not set(word) & set(" \t\n\xa0\u3000") for word in mteval.tokenize(text))


def test_mteval_knows_only_ascii_letters_and_digits():
    words = mteval.tokenize('It\'s £1,000.50 ("ÉCOLE") 5-star. <skipped>&amp;')
    assert words == ("it's", "£1,000.50", "(", '"', "École", '"', ")", "5", "-", "star", ".", "&")


# --- files and the command ------------------------------------------------------------------------------------------


def run(*arguments, path=None):
    command = [sys.executable, str(ROOT / "paper_repro" / "e2e_score.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "refs.txt").write_text("\n\n".join("\n".join(group) for group in REFERENCES) + "\n", encoding="utf-8")
    (tmp_path / "out.txt").write_text("\n".join(OUTPUTS) + "\n", encoding="utf-8")
    return tmp_path


def test_plain_text_and_the_command(folder):
    assert files.read(folder / "refs.txt", folder / "out.txt") == (OUTPUTS, REFERENCES)
    done = run(folder / "refs.txt", folder / "out.txt", path=str(folder))  # a PATH without Java
    assert done.returncode == 0
    assert done.stdout == "BLEU: 0.5586\nNIST: 4.0121\nMETEOR:\nROUGE_L: 0.7195\nCIDEr: 4.2297\n"
    assert done.stderr.count("\n") == 1 and "METEOR needs a Java runtime" in done.stderr
    found = json.loads(run(folder / "refs.txt", folder / "out.txt", "--json", path=str(folder)).stdout)
    assert found["METEOR"] is None and found["inputs"] == 8 and found["tokenizer"] == "own"
    assert round(found["CIDEr"], 4) == 4.2297


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


def test_the_command_exits_with_2(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for arguments in (
        (tmp_path / "none.txt", tmp_path / "latin.txt"),
        (tmp_path / "latin.txt", tmp_path / "latin.txt"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")


def test_help_teaches_at_once():
    start = time.perf_counter()
    done = run("--help")
    assert time.perf_counter() - start < 10  # 0.2 s on an idle machine: it imports neither torch nor transformers
    assert done.returncode == 0 and "blank line" in done.stdout and "METEOR" in done.stdout
    loaded = "import sys; sys.argv = ['x', '--help']\nimport paper_repro.e2e_score\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=False).returncode == 0


# --- what is missing ------------------------------------------------------------------------------------------------


def test_meteor_is_not_made_of_something_else(no_java):
    with pytest.raises(java.Unavailable, match="METEOR needs a Java runtime"):
        FORMULAS["METEOR"](OUTPUTS, REFERENCES)
    values, missing = score(OUTPUTS, REFERENCES)
    assert values["METEOR"] is None and "METEOR needs a Java runtime" in missing["METEOR"]
    assert all(values[name] is not None for name in FORMULAS if name != "METEOR")
