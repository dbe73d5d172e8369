"""Prometheus, Alertmanager and Grafana as code: boards by typed models, and the configurations for one machine."""
