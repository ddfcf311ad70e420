"""Trials of the hardware and its kernels: whether gradients come out right in a layout and a precision."""
