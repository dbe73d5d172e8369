# The model server on a GPU: ONNX Runtime with CUDA 13, cuDNN 9 and TensorRT 10. docker/build sets the arguments; docs/images.md says what each image is for.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS install
ARG PIP_OPTIONS=""
WORKDIR /build
COPY docker/requirements-serving-gpu.txt ./
# hadolint ignore=SC2086
RUN python3.11 -m venv /opt/paceline \
 && /opt/paceline/bin/pip install --no-cache-dir --no-deps --extra-index-url https://pypi.nvidia.com ${PIP_OPTIONS} -r requirements-serving-gpu.txt
COPY docker/install-code docker/requirements-build.txt pyproject.toml README.md ./
COPY contracts contracts
COPY serving serving
RUN PIP_OPTIONS="${PIP_OPTIONS}" ./install-code /opt/paceline

FROM ${BASE} AS bundle
ARG BUNDLE=""
# --build-arg BUNDLE names a folder of the context; without it there is no bundle in the image
COPY ${BUNDLE:-docker/bundled} /opt/bundle/

FROM ${BASE}
ARG VERSION=0.0.0
ARG COMMIT=unknown
ARG LOCK=unknown
ARG BUNDLE_FORMAT=unknown
ARG BUNDLE_ID=""
LABEL org.opencontainers.image.title="Paceline model server, GPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      dev.paceline.lock="${LOCK}" \
      dev.paceline.bundle-format="${BUNDLE_FORMAT}" \
      dev.paceline.bundle="${BUNDLE_ID}"
ENV PATH=/opt/paceline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PACELINE_COMMIT=${COMMIT} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/opt/paceline/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/paceline/lib/python3.11/site-packages/nvidia/cudnn/lib:/opt/paceline/lib/python3.11/site-packages/tensorrt_libs \
    PACELINE_SERVING_HOST=0.0.0.0 \
    PACELINE_SERVING_STATE=/var/lib/paceline/state \
    PACELINE_SERVING_PREDICTIONS=/var/lib/paceline/predictions
COPY --from=install /opt/paceline /opt/paceline
COPY --from=bundle /opt/bundle /opt/bundle
COPY --chmod=0755 docker/serve /usr/local/bin/serve
RUN mkdir -p /var/lib/paceline && chown 10001:10001 /var/lib/paceline
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["serve", "healthy"]
ENTRYPOINT ["serve"]
