#!/usr/bin/env bash
# The whole pipeline at a size of minutes, in a copy of this tree under .smoke: the same code, the preset `smoke`, two seeds.
# Usage: scripts/smoke.sh [JOBS]; needs the virtual environment's bin/ first in PATH (`make smoke` sees to it).
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${1:-2}
root=$PWD
copy=$root/.smoke
export WANDB_MODE=${WANDB_MODE:-offline}

rm -rf "$copy"
mkdir "$copy"
if [ "$(git rev-parse --show-toplevel 2>/dev/null || true)" = "$root" ]; then
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    if [ -e "$file" ]; then printf '%s\0' "$file"; fi
  done | tar --create --null --files-from=- | tar --extract --directory "$copy"
else
  tar --create --exclude=./.git --exclude=./.venv --exclude=./.work --exclude=./.smoke --exclude=./data --exclude=./checkpoints \
    --exclude=./runs --exclude=./wandb --exclude=./pretrained --exclude=./.dvc/cache --exclude=./.dvc/tmp . |
    tar --extract --directory "$copy"
fi

cd "$copy"
rm -rf results comparisons reports dvc.lock experiments/*/dvc.lock # they belong to another preset
sed -i 's/^preset: .*/preset: smoke/; s/^seeds: .*/seeds: [0, 1]/' params.yaml
sed -i 's/^seeds: .*/seeds: [0, 1]/' experiments/*/experiment.yaml
printf '[core]\n    no_scm = true\n' >.dvc/config.local # the copy is not a checkout of its own

python -m harness repro --jobs "$jobs"
python -m harness verdicts

for file in reports/index.html experiments/*/experiment.yaml; do
  case $file in
  experiments/*) file=comparisons/$(basename "$(dirname "$file")")/comparison.json ;;
  esac
  if [ ! -s "$file" ]; then
    echo "smoke: $file was not made" >&2
    exit 1
  fi
done
again=$(python -m harness repro --jobs "$jobs")
case $again in
*"nothing to run"*) echo "smoke: passed; a second run had nothing to do" ;;
*)
  echo "smoke: a second run was not idle:" >&2
  echo "$again" >&2
  exit 1
  ;;
esac
