"""The environment of a run: the state of git, and none."""

import json
import os
import subprocess

from modules.runs.environment import environment, git_state


def git(folder, *arguments):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout.strip()


def test_git_state_knows_commit_and_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a git hook
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    git_state.cache_clear()
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "untracked").write_text("1")
    git_state.cache_clear()
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "file").write_text("2")
    git_state.cache_clear()
    assert git_state(tmp_path) == (commit, True)
    inner = tmp_path / "site-packages"
    inner.mkdir()
    monkeypatch.delenv("LORA_VARIANTS_COMMIT", raising=False)
    assert git_state(inner) == (None, None)  # somebody else's repository around an installed copy
    monkeypatch.setenv("LORA_VARIANTS_COMMIT", commit)
    git_state.cache_clear()
    assert git_state(inner) == (commit, None)
    git_state.cache_clear()
    assert git_state(tmp_path) == (commit, True)  # a checkout knows better


def test_environment_never_fails_without_git(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    assert git_state(tmp_path) == (None, None)  # a repository that git refuses
    git_state.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == (None, None)  # no git at all
    try:
        found = environment(devices=2)
    finally:
        git_state.cache_clear()
    assert found["devices"] == 2 and found["torch"] and found["device"] and found["time"].endswith("+00:00")
    json.dumps(found)
