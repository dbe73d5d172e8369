"""Kubernetes: the API, the route as a gateway, Deployments as groups of servers, leader election, KServe."""
