"""Typed settings: frozen dataclasses, `--set PATH=VALUE`, and functions found by name."""
