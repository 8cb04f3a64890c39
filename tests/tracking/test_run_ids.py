import pytest

from harness.tracking.run_ids import PROJECT, compare_id, evaluate_id, mode, project, train_id

FINGERPRINT = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_offline_unless_told_otherwise(environment, expected):
    assert mode(environment) == expected


def test_project():
    assert project({}) == PROJECT
    assert project({"WANDB_PROJECT": "mine"}) == "mine"


def test_ids_follow_from_the_content():
    card = {"models": {"student": {"fvd": 1.0}}}
    assert train_id(FINGERPRINT) == "0123456789abcdef-train"
    assert evaluate_id(card, FINGERPRINT) == evaluate_id(dict(card), FINGERPRINT)
    others = {
        evaluate_id(card, FINGERPRINT),
        evaluate_id(card, "another"),
        evaluate_id({"models": {}}, FINGERPRINT),
        compare_id(card),
        compare_id({}),
        train_id("another"),
    }
    assert len(others) == 6
