"""The model as a BentoML service: one worker, numpy in and out or records in, its access log off."""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import onnxruntime

from contracts.bundle import read_bundle
from contracts.encoder import Encoder

_BATCHABLE = os.environ.get("BENCHMARK_BATCHING") == "1"


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Trees:
    def __init__(self) -> None:
        bundle = read_bundle(Path(os.environ["BENCHMARK_BUNDLE"]))
        self._encoder = Encoder(bundle.schema)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=_BATCHABLE, max_batch_size=64, max_latency_ms=1000)
    async def predict(self, features: np.ndarray) -> np.ndarray:
        return np.ravel(self._session.run(["score"], {"features": features.astype(np.float32, copy=False)})[0])

    @bentoml.api
    async def predict_records(self, records: list[dict[str, Any]]) -> np.ndarray:
        return np.ravel(self._session.run(["score"], {"features": self._encoder.encode_rows(records)})[0])
