import pytest

from harness.tracking.server import content_at, is_there


@pytest.mark.slow
def test_what_the_server_has_of_a_run(server):
    run = server.state.run("a-train")
    run.history, run.summary, run.files = [{}, {}], {"loss": 0.5}, {"media/a.mp4": b"123"}
    found = content_at("tester", "p", "a-train")
    assert found is not None
    assert (found.steps, found.summary, found.files) == (2, {"loss": 0.5}, {"media/a.mp4": 3})
    assert is_there("tester", "p", "a-train")
    assert not is_there("tester", "p", "b-train")
