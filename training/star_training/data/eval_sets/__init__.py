"""Labelled data sets with their splits, as evaluation and fine-tuning use them."""
