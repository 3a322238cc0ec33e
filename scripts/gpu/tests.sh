#!/usr/bin/env bash
# The first three minutes on a GPU: do the networks, losses and augmentation do there what they do on the CPU?
# Needs python3 with torch, numpy, safetensors and pytest; nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHONPATH=src exec python3 -m pytest -q -c /dev/null --rootdir . --noconftest -p no:cacheprovider tests/packed/test_cuda.py
