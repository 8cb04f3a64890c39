import threading
import time

from harness.tracking.follow import follow, new_rows


class FakeRun:
    def __init__(self):
        self.rows, self.metrics = [], []

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, row, step):
        self.rows.append((step, row))


def write(path, *lines):
    path.write_text("\n".join(lines))


def test_all_rows_in_the_order_of_the_batches(tmp_path):
    write(tmp_path / "history.csv", "batch,phase,loss", "1,critic,0.5", "2,generator,0.25", "3,critic,")
    write(tmp_path / "quality.csv", "batch,update,fvd", "0,0,9", "2,1,7", "")
    ended, run = threading.Event(), FakeRun()
    ended.set()
    logged = follow(tmp_path, run, ended, clips=lambda row: [f"clip of row {row}"] if row else [])
    assert run.rows == [  # the last line of the history has no end yet
        (0, {"quality/batch": 0.0, "quality/update": 0.0, "quality/fvd": 9.0}),
        (1, {"batch": 1.0, "phase": "critic", "loss": 0.5}),
        (2, {"batch": 2.0, "phase": "generator", "loss": 0.25}),
        (2, {"quality/batch": 2.0, "quality/update": 1.0, "quality/fvd": 7.0, "quality/samples": ["clip of row 1"]}),
    ]
    assert list(logged) == [0, 1, 2]
    assert logged[2]["loss"] == 0.25
    assert logged[2]["quality/fvd"] == 7.0
    assert ("*", "batch") in run.metrics
    assert ("quality/*", "quality/update") in run.metrics


def test_rows_that_come_while_it_looks(tmp_path):
    ended, run = threading.Event(), FakeRun()
    follower = threading.Thread(target=follow, args=(tmp_path, run, ended), kwargs={"interval": 0.01})
    follower.start()
    write(tmp_path / "history.csv", "batch,loss", "1,1", "")
    deadline = time.monotonic() + 10
    while not run.rows and time.monotonic() < deadline:
        time.sleep(0.01)
    write(tmp_path / "history.csv", "batch,loss", "1,1", "2,2", "")
    ended.set()
    follower.join()
    assert [step for step, _ in run.rows] == [1, 2]


def test_a_line_that_is_being_written_is_left(tmp_path):
    write(tmp_path / "t.csv", "batch,loss", "1,0.5", "2,0.")
    assert list(new_rows(tmp_path / "t.csv", 0)) == [{"batch": 1.0, "loss": 0.5}]
    assert list(new_rows(tmp_path / "t.csv", 1)) == []
    assert list(new_rows(tmp_path / "none.csv", 0)) == []
