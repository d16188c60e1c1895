# The images of kvcluster: one build stage, two targets.
#
#   docker build --target operator -t kvcluster/operator:0.1.0 .
#   docker build --target node     -t kvcluster/node:0.1.0 .
#
# Without an image registry e2e/kind/images builds the programs on the host and gives them in place of the stage
# `build` (a named build context overrides the stage of its name), upon a base image of its own making.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p kv-node -p kv-operator --bins \
    && install -D --strip --target-directory=/out target/release/kv-node target/release/kv-operator

FROM ${BASE_IMAGE} AS operator
COPY --from=build /out/kv-operator /kv-operator
USER 65532:65532
ENTRYPOINT ["/kv-operator"]
CMD ["run"]

FROM ${BASE_IMAGE} AS node
COPY --from=build /out/kv-node /kv-node
USER 65532:65532
WORKDIR /data
EXPOSE 6379 9121
ENTRYPOINT ["/kv-node"]
