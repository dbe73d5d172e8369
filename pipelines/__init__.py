"""All the work from data to a promoted model; never imports Airflow."""

import os

# ONNX Runtime's wheels send usage data to their vendor, from the first import on, unless they are told not to
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
