"""All that is told of what was used, by whom, and how it is made untold."""
