"""Architectures of timm, their first weights, and what they cost."""
