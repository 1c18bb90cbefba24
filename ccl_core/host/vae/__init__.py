"""Audio VAEs and text encoders as objects of the host."""
