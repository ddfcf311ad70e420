"""Protocols: ways to evaluate a frozen backbone, one a file."""
