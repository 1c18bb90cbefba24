"""Audio autoencoders and vocoders as torch modules."""
