"""All that signals, threads and forks do to a process, and how this library stays whole."""
