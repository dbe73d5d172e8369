"""The whole system on one machine: its processes supervised on loopback, and the main job as a story on real data."""
