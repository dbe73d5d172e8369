"""Envoy in front of one host or a group: its routes file as a gateway, model servers as groups, a file's turn."""
