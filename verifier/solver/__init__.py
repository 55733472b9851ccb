"""From a table and a transition system to a question for a solver, and its answer."""
