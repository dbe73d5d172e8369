"""What live predictions say about a model: outcomes joined, quality, drift, and whether a retrain is due."""
