"""The dashboard's specification, as the real client writes it, without a login."""

import json
import sys

import pytest

from modules.reports.dashboard.workspace import workspace
from modules.runs.results import ResultStore
from paper_repro import dashboard
from tests.support.results import run
from tests.support.wandb_server import WandbServer, client_of
from variants.errors import UserError


def specification() -> dict:
    """The workspace as it is sent."""
    return json.loads(workspace("team", "project", "Compared")._to_model().spec.model_dump_json(by_alias=True))


def panels() -> dict[str, list[dict]]:
    sections = specification()["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def test_runs_are_grouped_by_row_and_the_best_comes_first():
    (runs,) = specification()["section"]["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "group"}]
    (wanted,) = [f for f in runs["filters"]["filters"] if f["key"]["name"] == "jobType"]
    assert (wanted["op"], wanted["value"]) == ("=", "train")  # neither tuning nor tables
    assert runs["sort"]["keys"][0] == {"key": {"section": "summary", "name": "best/score"}, "ascending": False}


def test_scores_are_set_against_every_cost_on_logarithmic_axes():
    found = {panel["config"]["xAxis"]: panel["config"] for panel in panels()["Score against cost"]}
    assert set(found) == {f"summary:{key}" for key in ("parameters/adapter", "cost/step_ms", "cost/peak_memory_mb")}
    assert all(c["yAxis"] == "summary:best/score" and c["xAxisLogScale"] for c in found.values())


def test_curves_are_means_over_the_seeds_of_a_row_with_their_spread():
    curve = panels()["Scores"][0]["config"]
    assert (curve["xAxis"], curve["metrics"]) == ("epoch", ["dev/score"])
    assert (curve["groupBy"], curve["groupAgg"], curve["groupArea"]) == ("row.value", "mean", "stddev")


def test_the_plan_lists_tables_and_panels_without_a_login(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    ResultStore(tmp_path).write(run("rte", 0.7, 0))
    assert dashboard.main(["--plan", "--results_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "table: GLUE" in printed and "importance of settings" in printed
    assert dashboard.main(["--plan", "--only", "workspace", "--results_dir", str(tmp_path)]) == 0
    assert "table: GLUE" not in capsys.readouterr().out


def test_what_cannot_be_saved_is_one_line(tmp_path):
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    results = tmp_path / "results"
    results.mkdir()
    with client_of(nobody, tmp_path), pytest.raises(UserError, match="http://127.0.0.1:9 does not answer"):
        dashboard.main(["--entity", "team", "--only", "workspace", "--results_dir", str(results)])
    assert not list(results.iterdir())


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"lora-variants\[dashboard\]"):
        dashboard.main(["--plan", "--results_dir", str(tmp_path)])


@pytest.mark.slow
def test_the_real_client_saves_both_and_then_changes_them(tmp_path, capsys):
    ResultStore(tmp_path).write(run("rte", 0.7, 0))
    with WandbServer() as server, client_of(server.environment, tmp_path / "client"):
        words = ["--entity", "me", "--project", "p", "--results_dir", str(tmp_path)]
        assert dashboard.main(words) == 0
        assert [view["type"] for view in server.views] == ["project-view", "runs"]
        report = json.loads(server.views[1]["spec"])
        told = json.dumps(report)
        assert "roberta-base" in told and "summary:best/score" in told and "70.0" in told
        printed = capsys.readouterr().out
        assert f"workspace: {server.url}" in printed and f"report: {server.url}" in printed
        known = json.loads((tmp_path / "dashboard.json").read_text())["me/p"]
        assert set(known) == {"workspace", "report"}
