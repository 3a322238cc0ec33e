#!/usr/bin/env bash
# Three minutes of speed: a minute of stage 1 in each arithmetic; steps and seconds are printed.
#   scripts/gpu/speed.sh PARTS
set -euo pipefail
cd "$(dirname "$0")/../.."
for precision in bfloat16 float32; do
  PYTHONPATH=src python3 -m m3ae_core.packed "$1" --output "$(mktemp -d)" --stage 1 --minutes 1 --device cuda --precision $precision
done
