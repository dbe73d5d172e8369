"""Optimisation: candidates of one graph (as trained, graph-optimised, quantised), measured and judged on validation
rows, so that the fastest one that is still as good is what goes into the bundle."""
