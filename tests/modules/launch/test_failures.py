"""The words about a failure."""

from __future__ import annotations

import signal

import pytest
import torch
import torch.distributed as dist

from modules.launch.failures import Failure, signal_of
from variants.errors import UserError


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_a_mistake_is_one_line_and_an_accident_has_its_traceback(capsys):
    assert Failure.of(raised(UserError("no such\nfile")), "mrpc lora seed 0").say() == 2
    assert capsys.readouterr().err == "error: mrpc lora seed 0: no such file\n"
    assert Failure.of(raised(ValueError("x")), "mrpc lora seed 0").say() == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith(
        "ValueError: x\nerror: mrpc lora seed 0 failed; the other runs go on\n"
    )


def test_too_little_memory_is_one_line_with_what_takes_less(capsys):
    """It was a traceback of a hundred lines, the last of them about the allocator."""
    text = (
        "CUDA out of memory. Tried to allocate 188.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 161.31 MiB"
    )
    full = torch.OutOfMemoryError(f"{text} is free. Process 15571 has 16.13 GiB memory in use.")
    blas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert Failure.of(raised(blas), "x").line.startswith("x: the GPU has too little memory left: fewer")
    for error in (raised(full), raised(RuntimeError("while tidying up"), full)):
        failure = Failure.of(error, "e2e vera seed 0")
        assert failure.memory and failure.say() == 1
        said = capsys.readouterr().err
        assert said.startswith(
            "error: e2e vera seed 0: the GPU has too little memory left, 161.31 MiB of 139.80 GiB: fewer"
        )
        assert "--stack_rates" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        raised(RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer. G")),
        raised(dist.DistBackendError("NCCL error: remote process exited")),
        raised(ValueError("while tidying up"), dist.DistNetworkError("the server has gone")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_rank_that_lost_the_others_is_not_the_first_to_blame(monkeypatch, error):
    monkeypatch.setenv("RANK", "3")
    failure = Failure.of(error, "mrpc lora seed 0")
    assert failure.lost and failure.code == 1 and not failure.traceback
    assert failure.line.startswith("rank 3 of mrpc lora seed 0 lost the other ranks (")
    assert "gloo" not in failure.line and failure.line.count("\n") == 0
    assert Failure.read(failure.written()) == failure and Failure.read(b"") is None


def test_codes_of_processes_that_said_nothing():
    assert "was ended by signal 9 (SIGKILL), as the system does where memory runs out" in Failure.of_code(-9, "x").line
    assert Failure.of_code(-signal.SIGSEGV, "x").line.startswith("x was ended by signal 11 (SIGSEGV); the same command")
    assert Failure.of_code(-signal.SIGABRT, "x").lost, "NCCL's thread ends a rank so"
    assert Failure.of_code(3, "x").line.startswith("x ended with code 3;")
    assert [signal_of(code) for code in (0, 1, 2, 130)] == [None] * 4 and signal_of(137) == signal.SIGKILL
