"""Training logs: always logs.jsonl in the run folder; Weights & Biases and TensorBoard beside it on request."""
