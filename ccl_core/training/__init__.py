"""Training of joint models (CCL, arXiv 2603.18600) and of ccl-tiny; the pack itself never imports this."""
