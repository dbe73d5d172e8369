"""The front door: one verb, one function, for DAG, command line and test alike. Small JSON values in and out.

Every function is safe to repeat: what it makes is named by its content, and what it decides is in the ledger under a
key of its own. Large things stay on disk, and their ids travel.
"""
