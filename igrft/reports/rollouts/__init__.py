"""What rollouts say of themselves: who took over and why, and whether the monitor's word can be trusted."""
