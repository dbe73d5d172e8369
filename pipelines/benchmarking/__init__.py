"""Load on a model server, and what its clients would have felt: an open loop, a rate search, a report.

Why a generator of its own: the tools that correct for coordinated omission well (wrk2, vegeta, oha, k6) are no Python
packages, and a user of Paceline would have to install them beside it; locust, which is one, waits for each simulated
user's answer before the next request, so that a stall hides the requests that it held up, and costs more CPU time a
request than the server under test. None of them knows slots, or makes valid records from the live model's schema.
"""
