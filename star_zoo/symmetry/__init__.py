"""Invariance by construction: projections of regular features, and canonical poses of images."""
