"""Evaluation of frozen models: features, metrics, records, comparisons, protocols and solvers."""
