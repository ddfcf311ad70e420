"""State on disk: checkpoints written in the background, the state that they hold, the best export."""
