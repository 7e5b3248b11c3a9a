"""Prompts in, responses of a policy out, and the store that keeps what was drawn. Importing this loads no torch."""
