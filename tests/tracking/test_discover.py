import pytest
from small_project import EXPERIMENT

from harness.errors import HarnessError
from harness.tracking.discover import chosen, everything
from harness.tracking.requests import Request, finished_train_request
from harness.tracking.store import HOME, put

TARGET = f"{EXPERIMENT}/first/seed0"


def test_all_that_the_results_hold(project):
    found = everything(project)
    assert len(found) == 4 * 2 + 1
    assert len({request.id for request in found}) == 9
    assert [r.kind for r in chosen(found, [TARGET])] == ["evaluate", "train"]
    assert len(chosen(found, [f"{EXPERIMENT}/first"])) == 4
    assert len(chosen(found, [EXPERIMENT])) == 9
    assert chosen(found, []) == found


def test_a_target_without_anything_is_named(project):
    for name in ("two", f"{EXPERIMENT}/first/seed"):
        with pytest.raises(HarnessError, match="nothing of it to upload"):
            chosen(everything(project), [name])
    with pytest.raises(HarnessError, match="nothing yet"):
        chosen([], ["x"])


def noted(project, target, folder, id):
    content = finished_train_request(TARGET, project).to_json()
    content["settings"] = {**content["settings"], "id": id}
    return put(Request.from_json({**content, "target": target, "folder": str(folder)}), project / HOME)


def test_the_folder_of_a_run_is_taken_while_it_is_there(project):
    folder = project / ".work/runs/x"
    folder.mkdir(parents=True)
    own = finished_train_request(TARGET, project).id
    noted(project, TARGET, folder, own)
    noted(project, "my-run", folder, "unfinished-train")
    noted(project, "gone", project / "gone", "gone-train")
    found = {request.id: request for request in everything(project)}
    assert len(found) == 10
    assert found[own].folder == str(folder)
    assert found["unfinished-train"].target == "my-run"


def test_what_is_damaged_is_told_and_left_out(project, capsys):
    (project / "results" / TARGET / "cards.json").write_text("{}")
    (project / "comparisons" / EXPERIMENT / "comparison.json").write_text("{")
    entry = noted(project, "my-run", project, "x-train")
    (entry.folder / "request.json").write_text("[]")
    assert len(everything(project)) == 7
    assert capsys.readouterr().err.count("left out") == 3
