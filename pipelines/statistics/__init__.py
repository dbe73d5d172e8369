"""Pure numerical methods that decisions rest on: no I/O, no clock."""
