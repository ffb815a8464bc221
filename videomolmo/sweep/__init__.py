"""One notebook, many settings: a grid of runs that can be stopped, goes on, and ends in one table and one report."""
