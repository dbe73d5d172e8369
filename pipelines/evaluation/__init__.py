"""Evaluation: scores, metrics and latency of a challenger and the champion on the same test rows, their paired
comparison, the gates that decide whether traffic may follow, and the baseline and golden rows of the bundle."""
