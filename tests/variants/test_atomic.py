"""Files of which one writer makes the first: on file systems with hard links and without."""

from __future__ import annotations

import errno
import os
import threading
from types import SimpleNamespace

import pytest

from variants import atomic
from variants.atomic import write_new
from variants.errors import UserError


def no_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_one_of_several_writers_makes_the_file(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(atomic, "os", SimpleNamespace(**{**vars(os), "link": no_links}))
    barrier, made = threading.Barrier(8), {}

    def write(number: int) -> None:
        barrier.wait(10)
        made[number] = write_new(tmp_path / "file", str(number).encode())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first,) = [number for number, new in made.items() if new]
    assert (tmp_path / "file").read_text() == str(first) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("counted", [True, False])
def test_a_link_whose_answer_was_lost_counts(tmp_path, monkeypatch, counted):
    """NFS asks again, and is told that the name is taken; it may not know the count of links anew."""
    link = os.link

    def repeated(source, target):
        link(source, target)
        link(source, target)

    changes = {"link": repeated}
    if not counted:  # the content tells
        changes["stat"] = lambda path: SimpleNamespace(st_nlink=1)
    monkeypatch.setattr(atomic, "os", SimpleNamespace(**{**vars(os), **changes}))
    assert write_new(tmp_path / "file", b"mine")
    assert not write_new(tmp_path / "file", b"other") and (tmp_path / "file").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*free some space"):
        write_new(tmp_path / "file" / "inner", b"")
