"""eval_sets."""
