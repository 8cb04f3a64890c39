import json
import sys

import pytest
from small_project import EXPERIMENT, fingerprint

from harness.errors import HarnessError
from harness.tracking import verbs, wandb_report
from harness.tracking.requests import compare_request, evaluate_request
from harness.tracking.store import HOME


def all_ids(project):
    comparison = json.loads((project / "comparisons" / EXPERIMENT / "comparison.json").read_text())
    ids = wandb_report.run_ids(comparison, project)
    return comparison, ids, [i for arm in ids.values() for kind in arm.values() for i in kind]


def grids(spec):
    return [block for block in spec["blocks"] if block["type"] == "panel-grid"]


def test_ids_are_those_of_the_runs(project):
    _, ids, _ = all_ids(project)
    target = f"{EXPERIMENT}/second/seed1"
    assert ids["second"]["train"][1] == f"{fingerprint(target)[:16]}-train"
    assert ids["second"]["evaluate"][1] == evaluate_request(target, project).id


def test_tables(project):
    comparison, _, _ = all_ids(project)
    verdicts = wandb_report.verdict_table(comparison)
    assert "a\\|b" in verdicts
    assert "2 [1, 3]" in verdicts
    assert "undecided | –" in verdicts
    assert "| The second | 7.5 | 7, 8 |" in wandb_report.paired_table(comparison)
    assert "| init.kind | teacher | random |" in wandb_report.difference_table(comparison)


def test_the_report_without_a_server(project, capsys):
    assert verbs.main(["report", EXPERIMENT, "--out", "report.json", "--entity", "me"]) == 0
    spec = json.loads((project / "report.json").read_text())
    bars, curves, clips, differences = grids(spec)
    _, ids, _ = all_ids(project)
    for grid, kind in ((bars, "evaluate"), (curves, "train")):
        for runset, arm in zip(grid["metadata"]["runSets"], ids, strict=True):
            assert runset["name"] == f"The {arm}"
            assert ids[arm][kind] == runset["filters"]["filters"][0]["value"]
            assert runset["grouping"]

    def panels(grid):
        return grid["metadata"]["panelBankSectionConfig"]["panels"]

    (bar,) = panels(bars)
    assert bar["config"]["metrics"] == ["summary_metrics.student/fvd"]
    assert bar["config"]["groupArea"] == "stderr"
    (curve,) = panels(curves)
    assert (curve["config"]["metrics"], curve["config"]["xAxis"]) == (["quality/fvd"], "quality/update")
    assert (curve["config"]["groupAgg"], curve["config"]["groupArea"]) == ("mean", "minmax")
    (browser,) = panels(clips)
    assert browser["config"]["mediaKeys"] == ["clips/first"]
    compared = clips["metadata"]["runSets"][0]["filters"]["filters"][0]["value"]
    assert compared == [compare_request(EXPERIMENT, project).id]
    (comparer,) = panels(differences)
    assert comparer["viewType"] == "Run Comparer"
    assert "2 [1, 3]" in json.dumps(spec)


def test_the_extra_is_named_where_it_is_missing(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(HarnessError, match="wandb-workspaces is missing"):
        wandb_report.report(EXPERIMENT, project, entity=None, out=project / "x.json")


@pytest.mark.slow
def test_saving(project, server, capsys):
    comparison, _, ids = all_ids(project)
    for id in ids[:4]:
        server.state.run(id)
    with pytest.raises(HarnessError, match=r"5 of 9 runs .* are not at W&B"):
        verbs.main(["report", EXPERIMENT])
    for id in (*ids, compare_request(EXPERIMENT, project).id):
        server.state.run(id)
    assert verbs.main(["report", EXPERIMENT]) == 0
    ((id, view),) = server.state.views.items()
    assert (view["project"]["entityName"], view["displayName"]) == ("tester", "Is the first arm better, by 5 or more")
    assert view["description"] == comparison["declaration"]["claim"]
    assert len(grids(json.loads(view["spec"]))) == 4
    assert f"--{id}" in capsys.readouterr().out
    assert verbs.main(["report", EXPERIMENT]) == 0
    assert list(server.state.views) == [id], "the same report, not another"
    server.state.views.clear()
    server.state.fault = "swallow"
    with pytest.raises(HarnessError, match="does not have it"):
        verbs.main(["report", EXPERIMENT])
    note = project / HOME / "reports" / f"{EXPERIMENT}.json"
    assert json.loads(note.read_text())["server"] == server.url


@pytest.mark.slow
def test_a_server_that_is_not_there(project, server, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(HarnessError, match="did not take the report"):
        wandb_report.report(EXPERIMENT, project, entity="me", out=None)
