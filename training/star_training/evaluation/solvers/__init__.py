"""Numerical solvers: logistic regression, ridge regression, canonical correlations, whitening."""
