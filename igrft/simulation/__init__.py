"""Simulated robots: Meta-World, its scripted experts, and demonstrations as a teleoperator would give them."""
