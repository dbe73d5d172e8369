"""The model in LitServe: one API process and one worker, as it starts by default, with its fast queue."""

import argparse
import os
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime

from contracts.bundle import read_bundle
from contracts.encoder import Encoder


class Trees(litserve.LitAPI):
    def setup(self, device: str) -> None:
        bundle = read_bundle(Path(os.environ["BENCHMARK_BUNDLE"]))
        self._encoder = Encoder(bundle.schema)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        if "records" in request:
            return self._encoder.encode_rows(request["records"])
        return np.asarray(request["features"], dtype=np.float32)

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.ravel(self._session.run(["score"], {"features": features})[0])

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"scores": output.tolist()}


class BatchedTrees(Trees):
    """Requests of several rows each, so rows are joined and parted by the requests' sizes."""

    def batch(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        return np.concatenate(inputs), [len(each) for each in inputs]

    def predict(self, batch: tuple[np.ndarray, list[int]]) -> list[np.ndarray]:
        features, sizes = batch
        scores = np.ravel(self._session.run(["score"], {"features": features})[0])
        return np.split(scores, np.cumsum(sizes)[:-1])

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    is_batched = os.environ.get("BENCHMARK_BATCHING") == "1"
    api = BatchedTrees(max_batch_size=64, batch_timeout=0.0) if is_batched else Trees()
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=1, timeout=False, fast_queue=os.environ.get("BENCHMARK_FAST") != "0"
    )
    server.run(host="127.0.0.1", port=options.port, num_api_servers=1, log_level="warning", generate_client_file=False)
