"""The training engine: the loop with its checkpoints, logs and signals. It knows no method and no data set."""
