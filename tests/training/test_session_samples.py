import numpy as np

from harness.evaluation import monitor
from harness.training import session


def test_clips_of_every_measurement_are_kept_for_the_tracker(project, small_run, monkeypatch):
    class Stub:
        shown = np.full((5, 2, 8, 8, 3), 7, np.uint8)

        class prompts:
            captions = ("a", "b", "c", "d", "e")

        def __call__(self, network):
            return {"fvd": 1.0}

    monkeypatch.setattr(monitor, "build_monitor", lambda *_, **__: Stub())
    config = small_run(project, "sft", "sft.monitor_every_updates=1")
    for folder in (None, project / "run"):
        score = session._monitor(config, project, folder)
        assert score is not None
        assert score(None) == {"fvd": 1.0}  # type: ignore[arg-type]
    assert [path.name for path in sorted(project.glob("*/samples/*"))] == ["0.npy", "captions.json"]
    assert session._monitor(small_run(project, "sft"), project, project / "run") is None
