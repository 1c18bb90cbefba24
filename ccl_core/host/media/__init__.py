"""AV latents: made, encoded, decoded."""
