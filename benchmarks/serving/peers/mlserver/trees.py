"""The model in MLServer: a custom runtime, which is its documented way to serve what it has no runtime for.

In the server's process (`parallel_workers` 0), since a worker process costs a hop for each request of so small a model.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse

from contracts.bundle import read_bundle
from contracts.encoder import Encoder


class Trees(MLModel):
    async def load(self) -> bool:
        bundle = read_bundle(Path(os.environ["BENCHMARK_BUNDLE"]))
        self._encoder = Encoder(bundle.schema)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        features = NumpyCodec.decode_input(payload.inputs[0])
        scores = np.ravel(self._session.run(["score"], {"features": features})[0])
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores.reshape(-1, 1))]
        )

    @custom_handler(rest_path="/predict_records")
    async def predict_records(self, records: list[dict[str, Any]]) -> list[float]:
        scores = self._session.run(["score"], {"features": self._encoder.encode_rows(records)})[0]
        return [float(value) for value in np.ravel(scores)]
