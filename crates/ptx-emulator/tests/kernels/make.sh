#!/usr/bin/env bash
# Makes the PTX beside each source again. Needs nvcc 13.0 (PyPI: nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm,
# nvidia-cuda-runtime, nvidia-cuda-cccl) on PATH or in NVCC. Tests read only the PTX.
set -euo pipefail
cd "$(dirname "$0")"
nvcc=${NVCC:-nvcc}
for source in ${1:-*.cu}; do
    arch=sm_80
    case "$source" in hopper.cu) arch=sm_90a ;; opcodes.cu) arch=sm_89 ;; esac
    flags=
    [ "$source" = attention.cu ] && flags=-use_fast_math
    "$nvcc" -std=c++17 -O3 -arch=$arch $flags -ptx -o "${source%.cu}.ptx" "$source"
done
