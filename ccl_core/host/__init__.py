"""Glue between the model and ComfyUI: base model, latents, VAE wrappers, text encoder, checkpoint files."""
