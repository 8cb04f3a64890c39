import threading

import pytest
from small_project import EXPERIMENT

from harness.errors import HarnessError
from harness.tracking.requests import compare_request
from harness.tracking.store import Busy, entries, put


def test_an_entry_keeps_its_request_and_status(project):
    request = compare_request(EXPERIMENT, project)
    entry = put(request, project / "home")
    assert entry.request() == request
    assert entry.home == project / "home"
    assert entry.status() == {"state": "none"}
    entry.note("failed", error="no network")
    assert put(request, project / "home").status()["error"] == "no network"
    assert [e.folder.name for e in entries(project / "home")] == [request.id]
    assert entries(project / "nowhere") == []


@pytest.mark.parametrize("text", ["[]", '{"kind": "train"}', "{"])
def test_a_damaged_request_is_named(project, text):
    entry = put(compare_request(EXPERIMENT, project), project / "home")
    (entry.folder / "request.json").write_text(text)
    with pytest.raises(HarnessError, match=r"request\.json"):
        entry.request()


def test_one_at_a_time(project):
    entry = put(compare_request(EXPERIMENT, project), project / "home")
    order = []

    def second():
        with entry.held():
            order.append("second")

    with entry.held():
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_nobody_has_to_wait(project):
    entry = put(compare_request(EXPERIMENT, project), project / "home")
    with entry.held(), pytest.raises(Busy, match="is still being mirrored"), entry.held(wait=False):
        pytest.fail("two hold it")
    with entry.held(wait=False):
        pass
