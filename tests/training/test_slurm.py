"""The Slurm script, with stand-ins for Slurm and the launcher: what each node is told to start."""

import os
import subprocess
from pathlib import Path

import pytest
from composer.cli.launcher import _get_parser

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/slurm/train.sbatch"
STAND_INS = {
    "scontrol": '[ "$*" = "show hostnames nodes[7-8]" ] && printf "node7\\nnode8\\n"',
    "srun": '[ "$1" = --kill-on-bad-exit=1 ] || exit 3\nshift\nfor node in 0 1; do SLURM_NODEID=$node "$@"; done',
    "composer": 'printf "%s\\037" "$@"; echo',
}
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "nodes[7-8]",
    "SLURM_GPUS_ON_NODE": "8",
}


def submit(folder, *words, **environment):
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    for name, body in STAND_INS.items():
        path = folder / ".venv/bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(folder), **SLURM, **environment}
    environment = {name: value for name, value in environment.items() if value}
    return subprocess.run(["bash", SCRIPT, *words], env=environment, capture_output=True, text=True)


def launches(done):
    """What the launcher on each node understands."""
    assert done.returncode == 0, done.stderr
    return [_get_parser().parse_args(line.split("\037")[:-1]) for line in done.stdout.splitlines()]


def test_each_node_starts_its_own_processes(tmp_path):
    words = ["harness/train.py", "configs/dmd.yaml", "dmd.cfg_scale=2.5", "rollout.denoising_steps=[1000, 500]"]
    nodes = launches(submit(tmp_path, *words))
    assert [node.node_rank for node in nodes] == [0, 1]
    for node in nodes:
        assert (node.nproc, node.world_size, node.master_addr) == (8, 16, "node7")
        assert [node.training_script, *node.training_script_args] == words
        assert not node.module_mode
    assert nodes[0].master_port == nodes[1].master_port > 1024
    assert "{rank}" in nodes[0].stderr


def test_encoding_goes_the_same_way(tmp_path):
    nodes = launches(submit(tmp_path, "-m", "harness", "encode", PROCESSES_PER_NODE="2", SLURM_GPUS_ON_NODE=""))
    assert all(node.module_mode and node.training_script == "harness" for node in nodes)
    assert [(node.nproc, node.world_size, node.training_script_args) for node in nodes] == [(2, 4, ["encode"])] * 2


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [([], {}, "usage: sbatch"), (["harness/train.py"], {"SLURM_GPUS_ON_NODE": ""}, "give --gpus-per-node")],
)
def test_what_is_missing_is_told(tmp_path, words, environment, message):
    done = submit(tmp_path, *words, **environment)
    assert done.returncode != 0
    assert message in done.stderr


def test_it_is_valid_shell():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
