"""The wire formats of predictions: records as JSON, and the Open Inference Protocol v2. No I/O, no pydantic."""
