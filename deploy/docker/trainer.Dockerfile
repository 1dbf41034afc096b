# The trainer's image, target cpu or cuda; built from the repository's root:
#   docker build -f deploy/docker/trainer.Dockerfile --target cuda \
#       --build-arg BASE=NAME:TAG@sha256:DIGEST .
# BASE is any Debian 12 or newer that has Python 3.11, like python:3.11-slim. It has no default: a
# digest cannot be guessed, and a tag is another image tomorrow. CUDA's libraries come as wheels from
# the lock, the driver from the node.
ARG BASE

FROM ${BASE} AS build-cpu
ARG BASE
ARG PREFIX=/
WORKDIR /src
COPY deploy/docker/build.sh deploy/docker/
COPY requirements requirements
# A package index of one's own is named in a pip.conf given as the secret "pip".
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    deploy/docker/build.sh packages trainer cpu
COPY . .
RUN deploy/docker/build.sh project trainer cpu

FROM ${BASE} AS build-cuda
ARG BASE
ARG PREFIX=/
WORKDIR /src
COPY deploy/docker/build.sh deploy/docker/
COPY requirements requirements
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    deploy/docker/build.sh packages trainer cuda
COPY . .
RUN deploy/docker/build.sh project trainer cuda

FROM ${BASE} AS service
ARG BASE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Tailorbird trainer" \
      org.opencontainers.image.description="Fine-tunes LoRA adapters of one base model, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
ENV PATH=/opt/tailorbird/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/cache/huggingface \
    TAILORBIRD_DATA_DIR=/var/lib/tailorbird \
    TAILORBIRD_METRICS_PORT=9091
EXPOSE 50051 9091
WORKDIR /
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=5m --retries=3 \
    CMD ["/opt/tailorbird/bin/tailorbird", "health"]
# tini passes signals on and reaps what a training process that died left behind.
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/tailorbird/bin/python", "-m", "trainer_svc"]

FROM service AS cpu
ARG BASE
ARG PREFIX=/
RUN --mount=type=bind,source=deploy/docker,target=/src/deploy/docker \
    /src/deploy/docker/build.sh runtime trainer cpu
COPY --from=build-cpu /opt/tailorbird /opt/tailorbird
USER 65532:65532

FROM service AS cuda
ARG BASE
ARG PREFIX=/
RUN --mount=type=bind,source=deploy/docker,target=/src/deploy/docker \
    /src/deploy/docker/build.sh runtime trainer cuda
COPY --from=build-cuda /opt/tailorbird /opt/tailorbird
# Which devices, the node says; "all" here would open every GPU to a pod that asked for none.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
