#!/usr/bin/env bash
# The pipeline with some of the experiments at a size of minutes, in a copy of this tree under .smoke: the same code, the
# preset `smoke`, one seed.
# Usage: scripts/smoke.sh JOBS EXPERIMENT…; needs the virtual environment's bin/ first in PATH (`make smoke` sees to it).
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${1:?how many stages at once}
experiments=("${@:2}")
copy=$PWD/.smoke
export WANDB_MODE=${WANDB_MODE:-offline}

scripts/smoke_copy.sh "$copy"
cd "$copy"
python -m harness repro --jobs "$jobs" --experiments "${experiments[@]}"

for file in reports/index.html $(printf 'comparisons/%s/comparison.json ' "${experiments[@]}"); do
  if [ ! -s "$file" ]; then
    echo "smoke: $file was not made" >&2
    exit 1
  fi
done
again=$(python -m harness repro --jobs "$jobs" --experiments "${experiments[@]}")
case $again in
*"nothing to run"*) echo "smoke: passed; a second run had nothing to do" ;;
*)
  echo "smoke: a second run was not idle:" >&2
  echo "$again" >&2
  exit 1
  ;;
esac
