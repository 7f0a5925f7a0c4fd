"""Training: what a run is asked for, its state and steps, its checkpoints, and the functions that start runs."""
