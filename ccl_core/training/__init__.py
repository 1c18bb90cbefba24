"""Training of CCL models (arXiv 2603.18600) and of the embedded ccl-tiny; the pack itself never imports this."""
