#!/usr/bin/env bash
# Installs the tutorial in Google Colab, in the versions of requirements.lock: the first cell of each notebook runs it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v nvidia-smi > /dev/null || export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu  # without a GPU, torch without CUDA
packages=()
for folder in packages/*/; do packages+=(--editable "$folder"); done
python3 -m pip install --quiet --constraint requirements.lock --editable . "${packages[@]}"
