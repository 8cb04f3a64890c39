import pytest

from harness.data.problems import Report


def test_every_kind_is_counted_and_listed():
    report = Report(written={"train": 2000})
    for i in range(12):
        report.add("broken", f"v{i:02}.mp4", "no frames in it")
    report.add("no_caption", "w.mp4", "no text")
    summary = report.summary()
    assert "written: train 2,000" in summary
    assert "12 cannot be decoded:\n  v00.mp4: no frames in it" in summary
    assert "v09.mp4" in summary
    assert "v10.mp4" not in summary
    assert "… and 2 more in report.json" in summary
    assert "1 without a caption:" in summary
    assert len(report.to_json()["problems"]) == 13
    assert report.to_json()["counts"] == {"broken": 12, "no_caption": 1}


def test_the_order_of_finding_does_not_matter():
    a, b = Report(), Report()
    for report, items in ((a, "xy"), (b, "yx")):
        for item in items:
            report.add("broken", item, "")
    assert a.to_json() == b.to_json()


def test_an_unknown_kind_is_a_mistake_of_ours():
    with pytest.raises(KeyError):
        Report().add("odd", "x", "y")
