#!/usr/bin/env bash
# A copy of this tree, without what it has made, at the size of the preset `smoke`: the same code, one seed.
# Usage: scripts/smoke_copy.sh FOLDER (which is made anew)
set -euo pipefail
copy=$(realpath -m "$1")
cd "$(dirname "$0")/.."
root=$PWD

rm -rf "$copy"
mkdir -p "$copy"
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
sed -i 's/^preset: .*/preset: smoke/; s/^seeds: .*/seeds: [0]/' params.yaml
sed -i 's/^seeds: .*/seeds: [0]/' experiments/*/experiment.yaml
printf '[core]\n    no_scm = true\n' >.dvc/config.local # the copy is not a checkout of its own
