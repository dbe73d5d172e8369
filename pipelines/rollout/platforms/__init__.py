"""Where model servers run, as a rollout sees it: the port, and the server at a URL."""
