"""What the model server is compared with: a bare server that only parses, and what tutorials write with FastAPI."""

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

from contracts.bundle import read_bundle
from contracts.encoder import Encoder

_ANSWER = b'{"predictions":[{"score":0.5}]}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads the body, parses the JSON, and answers a constant."""
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    message = await receive()
    if message["body"]:
        msgspec.json.decode(message["body"])
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


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
