"""Training of CCL models (paper 2603.18600, section 4) and of the embedded ccl-tiny; the pack never imports this package."""
