"""Tests of the hardware's kernels: whether gradients are correct in a memory layout and a precision."""
