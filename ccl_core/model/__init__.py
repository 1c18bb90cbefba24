"""Torch modules on top of the host's Wan: the two streams, their interactions, the audio autoencoders."""
