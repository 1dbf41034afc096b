# Serving's image, target cpu or cuda; built from the repository's root:
#   docker build -f deploy/docker/serving.Dockerfile --target cuda \
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
    deploy/docker/build.sh packages serving cpu
COPY . .
RUN deploy/docker/build.sh project serving cpu

FROM ${BASE} AS build-cuda
ARG BASE
ARG PREFIX=/
WORKDIR /src
COPY deploy/docker/build.sh deploy/docker/
COPY requirements requirements
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    deploy/docker/build.sh packages serving cuda
COPY . .
RUN deploy/docker/build.sh project serving cuda

FROM ${BASE} AS service
ARG BASE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Tailorbird serving" \
      org.opencontainers.image.description="Serves many LoRA adapters of one base model, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
ENV PATH=/opt/tailorbird/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/cache/huggingface \
    TAILORBIRD_DATA_DIR=/var/lib/tailorbird \
    TAILORBIRD_METRICS_PORT=9092
EXPOSE 50052 9092
WORKDIR /
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=15m --retries=3 \
    CMD ["/opt/tailorbird/bin/tailorbird", "health"]
# tini passes signals on and reaps what a process of vLLM's that died left behind.
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/tailorbird/bin/python", "-m", "serving_svc"]

FROM service AS cpu
ARG BASE
ARG PREFIX=/
RUN --mount=type=bind,source=deploy/docker,target=/src/deploy/docker \
    /src/deploy/docker/build.sh runtime serving cpu
COPY --from=build-cpu /opt/tailorbird /opt/tailorbird
# What `tailorbird up` preloads on a CPU (tailorbird/cli/preload.py).
ENV LD_PRELOAD=libtcmalloc_minimal.so.4:/opt/tailorbird/lib/libiomp5.so
# vLLM compiles a function even when it runs the model eagerly, which takes a C++ compiler on a CPU.
ENV TORCH_COMPILE_DISABLE=1
USER 65532:65532

FROM service AS cuda
ARG BASE
ARG PREFIX=/
RUN --mount=type=bind,source=deploy/docker,target=/src/deploy/docker \
    /src/deploy/docker/build.sh runtime serving cuda
COPY --from=build-cuda /opt/tailorbird /opt/tailorbird
# Which devices, the node says; "all" here would open every GPU to a pod that asked for none.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
# FlashInfer compiles kernels with the lock's nvcc where vLLM chooses it.
ENV CUDA_HOME=/opt/tailorbird/lib/python3.11/site-packages/nvidia/cu13
USER 65532:65532
