"""The model server: loads bundles, answers predictions, keeps the lease and the hard limits of a rollout."""

import os

# ONNX Runtime's wheels send usage data to their vendor, from the first import on, unless they are told not to
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
