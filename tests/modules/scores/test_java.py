"""Java where it is missing or fails: METEOR is left out and its error is one line."""

import os

from modules.scores import score
from tests.support.e2e_texts import OFFICIAL, with_meteor


@with_meteor
def test_a_java_that_fails_is_one_line(monkeypatch, tmp_path):
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    values, missing = score(*OFFICIAL["several references"][:2])
    assert values["METEOR"] is None and "Unable to locate a Java Runtime." in missing["METEOR"]
    assert f"{values['ROUGE_L']:.4f}" == "0.7195"
