"""Realized levels on held-out prompts with intervals, the closing table, figures, the report, the model card."""
