"""FastAPI with ONNX Runtime: as tutorials write it (`plain`), and with the session options of Paceline (`tuned`).

It gets the same records as Paceline, and encodes them with the same encoder.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

from contracts.bundle import read_bundle
from contracts.encoder import Encoder


class Records(BaseModel):
    records: list[dict[str, Any]]


def _application(options: onnxruntime.SessionOptions | None) -> FastAPI:
    bundle = read_bundle(Path(os.environ["BENCHMARK_BUNDLE"]))
    session = onnxruntime.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])
    encoder = Encoder(bundle.schema)
    application = FastAPI()

    @application.post("/predict")
    def predict(body: Records) -> dict[str, Any]:
        features = encoder.encode_rows(body.records)
        scores = session.run(["score"], {"features": features})[0]
        return {"predictions": [{"score": float(score)} for score in np.ravel(scores)]}

    return application


def plain() -> FastAPI:
    return _application(None)


def tuned() -> FastAPI:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return _application(options)
