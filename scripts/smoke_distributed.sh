#!/usr/bin/env bash
# Every recipe in two processes through the real launcher, at toy size: encoding, SFT, causal SFT with both contexts,
# causal and bidirectional DMD, streaming long tuning, adapters. Works in a temporary folder; takes clips, encoders and
# evaluators from .smoke where `make smoke` has left them, else makes them. Needs the virtual environment's bin/ first
# in PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$root WANDB_MODE=disabled
limit=300 # seconds for one; two processes that disagree wait for each other for ever

sed 's/^preset: .*/preset: smoke/' params.yaml >"$work/params.yaml"
mkdir -p "$work/data" "$work/checkpoints" "$work/logs"
made=$root/.smoke
cd "$work"
if [ -d "$made/data/clips" ] && [ -d "$made/checkpoints/encoders" ] && [ -d "$made/checkpoints/evaluators" ]; then
  ln -s "$made/data/clips" data/clips
  ln -s "$made/checkpoints/encoders" "$made/checkpoints/evaluators" checkpoints/
else
  python -m harness prepare
  python -m harness encoders
  python -m harness evaluators
fi

launch() { # NAME, then what `composer` starts; what the second process says is kept too
  local name=$1
  shift
  if ! timeout "$limit" composer -n 2 --stdout "logs/$name.{rank}" --stderr "logs/$name.{rank}" "$@" >"logs/$name" 2>&1; then
    echo "smoke-distributed: $name failed or took more than $limit s" >&2
    cat "logs/$name" "logs/$name".* >&2
    return 1
  fi
}

train() { # NAME METHOD [key=value …]
  local name=$1 method=$2 init=teacher
  shift 2
  if [ "$method" = sft ]; then init=random; fi
  printf 'preset: smoke\nmethod: %s\nseed: 0\ninit: {kind: %s}\n' "$method" "$init" >"$name.yaml"
  launch "$name" "$root/harness/train.py" "$name.yaml" teacher=runs/sft/checkpoints "$@"
  python - "$name" "$(grep -c . "runs/$name/history.csv")" <<'END'
import json, sys
from pathlib import Path

run, lines = Path("runs", sys.argv[1]), int(sys.argv[2])
manifest = json.loads((run / "manifest.json").read_text())
assert manifest["world_size"] == 2, "it ran in one process"
assert lines - 1 == sum(manifest["updates"].values()), "history.csv has not a row for each batch"
assert (run / "checkpoints/model/config.json").is_file(), "no weights were given out"
END
  echo "smoke-distributed: $name passed"
}

launch encode -m harness encode
train sft sft # it is the teacher of the others
train teacher_forcing causal_sft causal_sft.context=teacher_forcing &
first=$!
train diffusion_forcing causal_sft causal_sft.context=diffusion_forcing causal_sft.monitor_every_updates=null
wait $first
train causal_dmd dmd &
first=$!
train bidirectional_dmd dmd rollout.attention=bidirectional dmd.monitor_every_updates=null
wait $first
train long_tuning dmd long=true rollout.attention=causal monitor.clips=32 & # half of the captions are shown long
first=$!
train adapters dmd "lora={rank: 2, alpha: 2, share_teacher: true}" dmd.monitor_every_updates=null
wait $first
echo "smoke-distributed: passed"
