"""The model server: loads bundles, answers predictions, keeps the lease and the hard limits of a rollout."""
