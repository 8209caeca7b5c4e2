"""TempoControl's own benchmark (arXiv 2510.02226, section 4): prompts, sampling with the user's weights, and its metrics."""
