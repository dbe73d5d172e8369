"""Several processes behind one port: a supervisor that forks and restarts them, and decides for all of them.

`supervisor` is the process that holds the port; `hub` decides there, once for all, what a control request does, and
tells every worker the state that follows (`messages`). `board` is the memory that they share, where a trip or a lease
is seen without a message; `shared_slots` is the state machine on top of it, the same class on both sides. `worker` is
one of the processes: the model server of one process with a `link` to the hub and an `acceptor` that takes its share
of the connections. `totals` adds up what they count.
"""
