"""Training: one trial in, one calibrated ONNX graph out, the same bytes for the same input. Each trainer is a module
named by what it trains; `pipelines.training.trainer` knows them by name."""
