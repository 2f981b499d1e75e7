# The images, one target each. Every one holds a single static binary; nothing is fetched, so docker, podman and buildah
# build them offline from a folder with the binaries in it (`cargo xtask images` leaves them in target/TRIPLE/release,
# with `--release` in target/TRIPLE/dist):
#
#   docker build --target ztunnel --tag localhost/ambit/ztunnel:dev --file Dockerfile FOLDER
#
# `cargo xtask images` reads this file, too, and writes the images itself, without a builder.

FROM scratch AS operator
COPY ambit-operator /ambit-operator
USER 65532:65532
ENTRYPOINT ["/ambit-operator"]

# The only privileged part. Group 65532 lets it open its socket to the ztunnel without CAP_CHOWN.
FROM scratch AS agent
COPY ambit-agent /ambit-agent
USER 0:65532
ENTRYPOINT ["/ambit-agent"]

FROM scratch AS ztunnel
COPY ambit-ztunnel /ambit-ztunnel
USER 65532:65532
ENTRYPOINT ["/ambit-ztunnel"]

FROM scratch AS waypoint
COPY ambit-waypoint /ambit-waypoint
USER 65532:65532
ENTRYPOINT ["/ambit-waypoint"]

# The application of the demonstration and the tests.
FROM scratch AS sample
COPY ambit-sample /ambit-sample
USER 65532:65532
ENTRYPOINT ["/ambit-sample"]

# The load of the benchmarks.
FROM scratch AS bench
COPY ambit-bench /ambit-bench
USER 65532:65532
ENTRYPOINT ["/ambit-bench"]
