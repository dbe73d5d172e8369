"""What training hands to serving, and serving to monitoring: the bundle, the input schema with its encoder,
the prediction row and the messages about slots. A leaf: standard library, numpy and msgspec only."""
