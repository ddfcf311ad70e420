"""Pretraining: recipe, the trained module, the run, and online evaluation."""
