"""Recording what a policy does, and what a human does about it."""
