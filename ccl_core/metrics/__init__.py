"""Synchrony of any clip: onsets that are heard, and their match with contacts that are seen."""
