"""A challenger's way to the lead: a plan, a pure state machine with a judge, and the controller that acts on them.

`plan`, `machine` and `judge` decide and do no I/O; `controller` observes, appends to the ledger and acts through a
platform of `platforms`.
"""
