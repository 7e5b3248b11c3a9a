"""Prompts, policies, and responses sampled from them. Importing this package loads no torch."""
