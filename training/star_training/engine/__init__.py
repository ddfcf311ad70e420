"""The training engine: the loop with its checkpoints, logs and signals, independent of methods and data sets."""
