# The runner in a container that computes on the processor.
#
#   docker build -f docker/cpu.Dockerfile -t farthing .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" farthing pipelines/tiny.toml
FROM rust:1.91-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --package farthing-runner --bin runner

FROM debian:bookworm-slim
# Certificates of whom it downloads from, and git, which names the commit of a pipeline; a release of Debian has one version of each, and its fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 farthing
COPY --from=build /src/target/release/runner /usr/local/bin/runner
USER 10001
WORKDIR /work
ENTRYPOINT ["runner"]
