"""How a task is learned: solvers, and the one driver that runs them."""
