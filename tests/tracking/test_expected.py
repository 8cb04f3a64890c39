import math

import pytest
from attrs import evolve

from harness.tracking.expected import Content, missing, summary_of

SENT = Content(steps=3, summary={"loss": 0.1, "phase": "critic", "zero": 0.0}, files={"media/a.mp4": 10})


def test_a_summary_is_the_last_value_of_each_key():
    logged = {2: {"loss": 2.0, "clips": ["video"]}, 1: {"loss": 1.0, "phase": "a", "nan": math.nan}}
    assert summary_of(logged) == {"loss": 2.0, "phase": "a"}


def test_all_of_it():
    assert missing(SENT, SENT) == []
    more = Content(steps=9, summary={**SENT.summary, "_runtime": 1}, files={**SENT.files, "config.yaml": 1})
    assert missing(SENT, more) == []
    rounded = evolve(SENT, summary={**SENT.summary, "loss": 0.1 * (1 + 1e-12)})
    assert missing(SENT, rounded) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 2}, "history: 2 of 3"),
        ({"summary": {**SENT.summary, "loss": 0.1001}}, "summary: 1 of 3 values (loss)"),
        ({"summary": {}}, "summary: 3 of 3"),
        ({"summary": {**SENT.summary, "phase": "generator"}}, "(phase)"),
        ({"summary": {**SENT.summary, "loss": "0.1"}}, "(loss)"),
        ({"files": {}}, "files: 1 of 1 (media/a.mp4)"),
        ({"files": {"media/a.mp4": 0}}, "files: 1 of 1"),
    ],
)
def test_what_is_not_there_is_named(change, told):
    (problem,) = missing(SENT, evolve(SENT, **change))
    assert told in problem
