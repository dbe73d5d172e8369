"""Champion and challenger as separate servers behind a gateway: what Kubernetes and Envoy have in common.

`split` is what the gateway is to do (pure), `counts` what the servers did (pure), `reading` asks them for it, and
`platform` is the rollout's port over a gateway, two groups of servers and their counters.
"""
