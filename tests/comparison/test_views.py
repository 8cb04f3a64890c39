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
