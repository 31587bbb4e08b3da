# The runner in a container that computes on NVIDIA GPUs. The driver is the host's: it comes with NVIDIA's container toolkit. The image has cuBLASLt.
#
#   docker build -f docker/cuda.Dockerfile -t farthing-cuda .
#   docker run --rm --gpus all -v "$PWD:/work" --user "$(id -u):$(id -g)" farthing-cuda pipelines/gpt2-1gpu.toml
#
# Building needs no CUDA: kernels are in the binary.
FROM rust:1.91-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --package farthing-runner --bin runner

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
# libnccl2 joins several GPUs. The release of CUDA is in the names, the rest has one version in a release of Ubuntu, and its fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates git libcublas-13-0 libnccl2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 farthing
COPY --from=build /src/target/release/runner /usr/local/bin/runner
USER 10001
WORKDIR /work
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["runner"]
