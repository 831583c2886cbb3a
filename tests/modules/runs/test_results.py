"""The result store: names, atomic files, damaged files, and what a run records about where it ran."""

import json
import math
import os
import resource
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.runs import results
from modules.runs.results import ResultStore, RunResult, run_id
from variants.atomic import write_atomic
from variants.errors import UserError


def result(**changes) -> RunResult:
    scores = {"epoch": 2, "loss": 0.5, "accuracy": 0.8125}
    base = dict(
        id="0123456789ab",
        benchmark="glue",
        task="mrpc",
        variant="lora",
        variant_config={"r": 8, "alpha": 8.0},
        protocol="paper",
        seed=0,
        backbone={"source": "hub", "name": "roberta-base", "hash": "ab"},
        data={"source": "hub", "name": "glue", "hash": "cd", "sizes": {"train": 3668, "validation": 408}},
        training={"lr": 4e-4, "epochs": 30},
        metric="accuracy",
        epochs=[{"epoch": 1, "loss": 0.6, "accuracy": 0.7}, scores],
        best=scores,
        last=scores,
        parameters={"adapter": 294912, "head": 592130, "total": 124647170},
        cost={"step_ms": 12.5},
    )
    return RunResult(**base | changes)


# ---- names ------------------------------------------------------------------------------------------------------


def test_run_id_is_the_first_12_digits_of_sha256_over_canonical_json():
    # printf '{"a":{"b":[1,0.5,null,true]},"z":"x"}' | sha256sum
    assert run_id({"z": "x", "a": {"b": (1.0, 0.5, None, True)}}) == "20aab0c30c3a"


settings = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def shuffled(value):
    """The same settings written down differently: keys reversed, tuples for lists, whole numbers as floats."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return tuple(shuffled(item) for item in value)
    return float(value) if type(value) is int else value


@given(st.dictionaries(st.text(), settings, max_size=5))
def test_run_id_does_not_depend_on_how_settings_are_written(outcome):
    assert run_id(outcome) == run_id(shuffled(outcome)) == run_id(json.loads(json.dumps(outcome)))


@pytest.mark.parametrize(
    "other", [{"lr": 5.1e-4}, {"lr": "5e-4"}, {"lr": True}, {"lr": None}, {"lr": [5e-4]}, {"x": 5e-4}, {}]
)
def test_other_settings_have_another_id(other):
    assert run_id({"lr": 5e-4}) != run_id(other)


def test_one_is_not_true():
    assert run_id({"a": 1}) != run_id({"a": True})


@pytest.mark.parametrize("bad", [math.nan, math.inf, object(), {1: 2}])
def test_what_cannot_be_named_is_refused(bad):
    with pytest.raises((TypeError, ValueError)):
        run_id({"a": bad})


# ---- files ------------------------------------------------------------------------------------------------------


def test_written_results_are_read_back_equal(tmp_path):
    store = ResultStore(tmp_path)
    assert store.read("0123456789ab") is None and not store.done("0123456789ab") and store.all() == []
    path = store.write(result())
    assert path == tmp_path / "runs" / "0123456789ab.json"
    assert store.read("0123456789ab") == result() and store.done("0123456789ab")
    other = result(id="ffffffffffff", init_from={"task": "mnli", "id": "0" * 12}, overrides={"lr": 1e-3}, code="aa")
    store.write(other)
    assert store.all() == [result(), other]
    assert sorted(os.listdir(tmp_path / "runs")) == ["0123456789ab.json", "ffffffffffff.json"]


def test_a_file_is_strict_json_even_when_the_loss_diverged(tmp_path):
    lost = {"epoch": 1, "loss": math.nan, "accuracy": math.inf}
    path = ResultStore(tmp_path).write(result(epochs=[lost], best=lost, last=lost))

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["best"] == {"epoch": 1, "loss": None, "accuracy": None}
    assert ResultStore(tmp_path).done("0123456789ab")


def damage(**changes):
    return lambda content: json.dumps({**json.loads(content), **changes})


def without(key):
    return lambda content: json.dumps({k: v for k, v in json.loads(content).items() if k != key})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: content[: len(content) // 2], "line"),
        (lambda content: "", "line 1"),
        (lambda content: "[1]", "expected keys and values, found [1]"),
        (damage(schema=99), "schema 99"),
        (without("schema"), "schema None"),
        (without("best"), "'best'"),
        (damage(best={"epoch": 1}), "lacks the metric 'accuracy'"),
        (damage(seed="0"), "seed must be a whole number, not '0'"),
        (damage(data={"name": "x"}), "data: 'source' is missing"),
        (damage(surprise=1), "'surprise'"),
        (damage(id="ba9876543210"), "ba9876543210"),
    ],
)
def test_an_unusable_file_is_left_out_and_the_run_that_writes_it_anew_sets_it_aside(tmp_path, caplog, spoil, reason):
    store = ResultStore(tmp_path)
    path = store.write(result())
    keep = store.write(result(id="ffffffffffff"))
    spoiled = spoil(keep.read_text().replace("ffffffffffff", "0123456789ab"))
    for number in (1, 2):
        path.write_text(spoiled)
        assert [run.id for run in store.all()] == ["ffffffffffff"] and not store.done("0123456789ab")
        assert path.read_text() == spoiled, "who reads renames nothing"
        store.set_aside("0123456789ab")
        aside = path.with_name(f"{path.name}.corrupt-{number}")
        assert aside.read_text() == spoiled and not path.exists()
    said = [line for line in caplog.messages if str(path) in line and reason in line]
    assert [line.rpartition(": moved to ")[2] for line in said if "moved to" in line] == [
        f"{path.name}.corrupt-{number}" for number in (1, 2)
    ]
    assert len([line for line in said if "is left out" in line]) == 1, "once, however often it is read"
    assert store.write(result()) == path and store.done("0123456789ab")
    store.set_aside("0123456789ab")
    assert store.done("0123456789ab"), "a file of use stays"


def test_bytes_that_are_no_text_are_left_out_too(tmp_path):
    store = ResultStore(tmp_path)
    path = store.write(result())
    path.write_bytes(b"\xff\xfe\x00")
    assert store.read("0123456789ab") is None
    store.set_aside("0123456789ab")
    assert path.with_name(path.name + ".corrupt-1").exists()


def test_a_result_that_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(UserError, match="metric"):
        ResultStore(tmp_path).write(result(metric="f1"))
    assert ResultStore(tmp_path).all() == []


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # the kernel refuses the write half way through
    try:
        with pytest.raises(UserError) as caught:
            write_atomic(path, "new" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_file_is_parsed_once_and_anew_where_it_has_changed(tmp_path, monkeypatch):
    results._checked.cache_clear()  # the process may have read the same content elsewhere
    store, parsed = ResultStore(tmp_path), []
    store.write(result())
    store.write(result(id="ba9876543210", seed=1))
    parse = RunResult.from_json
    monkeypatch.setattr(RunResult, "from_json", lambda *text: parsed.append(text[1]) or parse(*text))
    for _ in range(3):
        assert [run.seed for run in ResultStore(tmp_path).all()] == [0, 1]
    assert len(parsed) == 2
    store.write(result(wandb_id="other"))
    parsed.clear()
    assert store.read("0123456789ab").wandb_id == "other" and len(parsed) == 1


def test_each_reader_of_a_file_has_an_object_of_their_own(tmp_path):
    """What one of them changes, at whatever depth, is neither in what others have nor in what is read next."""
    store = ResultStore(tmp_path)
    store.write(result(id="0123456789ab"))
    text = store.path("0123456789ab").read_text()
    first, second = store.read("0123456789ab"), ResultStore(tmp_path).read("0123456789ab")
    first.task, first.best["accuracy"], first.epochs[0]["loss"] = "other", 0.0, math.nan
    first.variant_config.clear()
    first.data["sizes"]["train"] = 0
    for each in (second, *store.all()):
        assert each.to_json() == text and each.folder == tmp_path / "runs" / "0123456789ab"


def test_of_many_files_the_contents_are_not_all_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_checked", lru_cache(2)(results._checked.__wrapped__))
    store = ResultStore(tmp_path)
    for number in range(5):
        store.write(result(id=f"{number:012x}"))
    assert [result.id for result in store.all()] == [f"{number:012x}" for number in range(5)]
    assert results._checked.cache_info().currsize == 2 and results.REMEMBERED < 10_000


def test_who_reads_while_a_file_is_rewritten_sees_the_old_one_whole(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    with open(path) as reader:
        write_atomic(path, "a new and longer text")
        assert reader.read() == "old"
    assert path.read_text() == "a new and longer text"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="runs"):
        ResultStore(tmp_path).write(result())


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    script = (
        "import os, signal, sys\n"
        "from variants import atomic\n"
        "atomic.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"  # all is written, nothing is final
        "atomic.write_atomic(atomic.Path(sys.argv[1]), 'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).resolve().parents[3])
    assert done.returncode == -9 and path.read_text() == "old"
    (tmp_path / "runs").mkdir()
    for leftover in tmp_path.glob(".a.json*"):
        leftover.rename(tmp_path / "runs" / leftover.name)
    assert ResultStore(tmp_path).all() == []
