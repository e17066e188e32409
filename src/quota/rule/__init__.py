"""The rule: pure functions on integers and plain data, without clock, lock or I/O."""
