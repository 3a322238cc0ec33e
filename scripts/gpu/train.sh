#!/usr/bin/env bash
# Eight minutes of training from packed cases; call it again to go on.
#   scripts/gpu/train.sh PARTS OUTPUT STAGE TOTAL_MINUTES [STAGE_1_OUTPUT]
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHONPATH=src exec python3 -m m3ae_core.packed "$1" --output "$2" --stage "$3" --minutes "$4" --now 8 \
  ${5:+--pretrained "$5"} --device cuda --precision bfloat16
