"""A SLURM of one node for the tests marked ``slurm``."""

import os

import pytest

from tests.support.loopback_slurm import loopback_slurm


@pytest.fixture(scope="session")
def slurm_up(tmp_path_factory):
    """The environment of commands that use it; in the tests' own process too."""
    with loopback_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        os.environ.update(environment)
        yield environment
    for name in environment:
        os.environ.pop(name)
