"""Helpers that know nothing of MAP: errors, files, devices, memory, texts, seeds, redaction, addresses."""
