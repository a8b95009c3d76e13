"""Pixels to bytes: WebP, PNG or JPEG and their hash, off the event loop."""
