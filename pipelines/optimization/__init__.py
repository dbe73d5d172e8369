"""Optimisation: candidates of one graph (folded, quantised, pruned, with fewer trees), measured and judged on
validation rows, so that the fastest one that is still as good on every slice is what goes into the bundle."""
