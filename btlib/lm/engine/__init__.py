"""Batched generation behind DSPy's engine protocol: one model, many requests, the same answer in any batch."""
