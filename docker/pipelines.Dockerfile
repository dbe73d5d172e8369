# The pipelines and Airflow: every component of the official Helm chart, training pods and the rollout's controller.
# TORCH_INDEX chooses PyTorch for a CPU (default) or, for training pods with a GPU, https://download.pytorch.org/whl/cu130
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS install
ARG PIP_OPTIONS=""
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY docker/requirements-pipelines.txt docker/requirements-build.txt ./
# hadolint ignore=SC2086
RUN python3.11 -m venv /opt/paceline \
 && grep '^torch==' requirements-pipelines.txt > torch.txt \
 && grep -v '^torch==' requirements-pipelines.txt > others.txt \
 && /opt/paceline/bin/pip install --no-cache-dir --no-deps ${PIP_OPTIONS} -r others.txt -r requirements-build.txt
# PyTorch comes from its index alone, with what its build for a GPU brings: that of PyPI no CPU can load
# hadolint ignore=SC2086
RUN /opt/paceline/bin/pip install --no-cache-dir ${PIP_OPTIONS} --index-url ${TORCH_INDEX} -r torch.txt
# the code stays a folder, beside the lock that a bundle names and the migrations of the ledger
WORKDIR /opt/code
COPY docker/install-code docker/requirements-build.txt pyproject.toml README.md requirements.txt ./
COPY contracts contracts
COPY serving serving
COPY pipelines pipelines
COPY plugins plugins
COPY dags dags
COPY projects projects
COPY great_expectations great_expectations
RUN PIP_OPTIONS="${PIP_OPTIONS}" ./install-code /opt/paceline --editable \
 && rm install-code requirements-build.txt

FROM ${BASE}
ARG VERSION=0.0.0
ARG COMMIT=unknown
ARG LOCK=unknown
ARG BUNDLE_FORMAT=unknown
LABEL org.opencontainers.image.title="Paceline pipelines and Airflow" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      dev.paceline.lock="${LOCK}" \
      dev.paceline.bundle-format="${BUNDLE_FORMAT}"
ENV PATH=/opt/paceline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PACELINE_COMMIT=${COMMIT} \
    PACELINE_HOME=/var/lib/paceline \
    PACELINE_PROJECTS=/opt/code/projects \
    PACELINE_EXPECTATIONS=/var/lib/paceline/great_expectations \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/code/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/code/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
COPY --from=install /opt/paceline /opt/paceline
COPY --from=install /opt/code /opt/code
COPY --chmod=0755 docker/run /usr/local/bin/run
# the chart's own user; group 0 may write what a read-only root leaves to volumes
RUN mkdir -p /var/lib/paceline /opt/airflow && chown 50000:0 /var/lib/paceline /opt/airflow \
 && chmod g=u /var/lib/paceline /opt/airflow
USER 50000:0
WORKDIR /opt/airflow
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["run", "healthy"]
ENTRYPOINT ["run"]
CMD ["paceline", "--help"]
