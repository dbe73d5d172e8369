"""What a person must be able to look up about a model: where a prediction came from, and what its model is for."""
