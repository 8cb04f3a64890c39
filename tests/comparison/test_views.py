from harness.comparison import views


def test_numbers_read_well():
    shown = [views.number(v) for v in (None, 0, 0.07891, 52.04, 123.6, 12345.6, -3.0, 0.00001)]
    assert shown == ["–", "0", "0.0789", "52", "124", "12\u202f346", "−3", "1.0e−05"]
    assert [views.p_value(p) for p in (None, 0.0, 0.25, 1.0)] == ["–", "< .001", ".25", "1"]
    assert views.span({"low": -1.0, "high": 2.5}) == "[−1, 2.5]"
    assert views.span({"low": None, "high": None}) == ""


def test_runs_shared_between_experiments_are_found():
    comparisons = {
        "a": {"fingerprints": {"x": {"0": "p", "1": "q"}, "y": {"0": None}}},
        "b": {"fingerprints": {"z": {"0": "p", "1": "q"}, "w": {"0": None}}},
    }
    assert views.shared_runs("a", comparisons) == [{"arm": "x", "experiment": "b", "other_arm": "z", "seeds": [0, 1]}]


def test_shared_runs_cost_once():
    row = {"target": "t", "fingerprint": "p", "compute": {"device_seconds": 5.0, "teraflops": 2.0}}
    cost = views.total_cost([{"provenance": [row]}, {"provenance": [row]}])
    assert cost == {"device_seconds": 5.0, "teraflops": 2.0, "runs": 1}


def test_gap_in_words():
    assert views.gap_in_words({"gain": {"value": -3.0}}) == "misses the full teacher by 3"
    assert views.gap_in_words({"gain": {"value": 0.5}}) == "is better than the full teacher by 0.5"


def test_scale_holds_all_values():
    low, high = views.scale_of(
        [{"low": None, "value": 3.0, "high": None}, {"low": 1.0, "value": 2.0, "high": 2.5}], (0.0,)
    )
    assert low < 0.0
    assert high > 3.0


ARMS = [{"name": "a", "label": "First"}, {"name": "b", "label": "Second"}]


def watched(**fired) -> dict:
    runs = [
        {"arm": arm, "seed": 0, "readings": 3, "lowest": min(found.values(), default=0.8),
         "fired": [{"update": update, "value": value} for update, value in found.items()]}
        for arm, found in fired.items()
    ]  # fmt: skip
    return {"arms": ARMS, "static_collapse": runs}


def test_the_alarm_in_words():
    assert views.collapse_lines({"arms": ARMS}) == []
    assert views.watched_in_words({"arms": ARMS}) == ""
    comparison = watched(a={}, b={34: 0.25})
    assert views.collapse_lines(comparison) == [
        "Static collapse in Second, seed 0, at update 34: after their first frame the clips moved only 0.25 times as "
        "much as the teacher's (alarm below 0.5; 1 of 3 readings)."
    ]
    text = "The static-collapse alarm (below 0.5) watched 2 runs and fired in 1; the lowest reading is 0.25."
    assert views.watched_in_words(comparison) == text


def test_a_teacher_in_words():
    teacher = {"target": "teacher_i2v", "arms": ["b"], "after": ["teacher"], "teraflops": 9.0, "device_seconds": 60.0}
    text = "teacher_i2v (of Second): 9 TFLOP, 60 device seconds, after teacher"
    assert views.teacher_in_words({"arms": ARMS}, teacher) == text
    assert views.teacher_in_words({"arms": ARMS}, {**teacher, "after": []}) == text.removesuffix(", after teacher")


def test_the_level_in_words():
    def told(primary: str, *init: str) -> str:
        model = {"model": "init", "metrics": {name: {} for name in init}}
        metrics = [{"name": name} for name in (primary, "fvd")]
        return views.level_in_words({"primary": primary, "metrics": metrics, "models": [model]})

    assert told("fvd", "fvd") == ""
    assert "only the students and what they start from" in told("long_fvd", "long_fvd", "fvd")
    assert "against a model’s own teacher" in told("fvd_gap", "fvd")
