"""Encoding in two processes that are killed: no clip is lost, none is there twice."""

import filecmp
import os
import random
import signal
import socket
import traceback

import pytest

from harness.data import encode as encode_module
from harness.data import parts as parts_module
from harness.data.encode import encode
from harness.data.mds import SPLITS, load_split
from harness.data.processes import join_processes


def encode_in_processes(data, out, work, ranks, kill=None):
    """Exit codes of the processes; `kill = (rank, moment, number)` is the end of one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            signal.alarm(120)
            code = 1
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            try:
                if kill is not None and kill[0] == rank:
                    die_at(*kill[1:])
                with join_processes() as processes:
                    encode(data.clips, data.encoders, out, text_length=data.text_length, work=work, processes=processes)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def die_at(moment, number):
    """Die at the `number`-th row, between the shards of a part and its side file, or while parts are put together."""
    target, name = {
        "row": (encode_module, "to_float16"),
        "part": (parts_module, "write_json"),
        "assembly": (parts_module, "_link"),
    }[moment]
    plain, seen = getattr(target, name), []

    def call(*arguments):
        seen.append(None)
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)

    setattr(target, name, call)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts_module, "PART_CLIPS", 10)


@pytest.mark.parametrize(
    "chance", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_killed_again_and_again(data, small_parts, tmp_path, chance):
    draw = random.Random(chance)
    assert encode_in_processes(data, tmp_path / "one", tmp_path / "work-one", 1) == [0]
    unlucky = draw.randrange(2)  # the other one makes all its parts at once
    kills = [
        (unlucky, "row", draw.randint(2, 25)),
        (unlucky, "part", 1),
        (0, "assembly", draw.randint(1, 6)),
    ]
    for kill in kills:
        codes = encode_in_processes(data, tmp_path / "out", tmp_path / "work", 2, kill)
        assert codes[kill[0]] == -signal.SIGKILL, kill
        assert all(codes), "the other one does not go on alone"
        assert not (tmp_path / "out").exists(), "only what is whole is given out"
    ranks = draw.choice((1, 2))  # parts do not belong to a number of processes
    for _ in range(2):  # a repeated call gives the same again
        assert encode_in_processes(data, tmp_path / "out", tmp_path / "work", ranks) == [0] * ranks
        for split in SPLITS:
            keys = load_split(tmp_path / "out" / split)["key"]
            assert keys == load_split(data.clips / split)["key"]
            assert len(set(keys)) == len(keys)
        names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
        assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "out", map(str, names), shallow=False)[0] == [
            *map(str, names)
        ]
