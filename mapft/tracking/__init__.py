"""Training logs: logs.jsonl in the run folder, and the trackers of mapft/tracking/trackers that are on."""
