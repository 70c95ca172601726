"""Frozen networks that see: what perceptual losses and distances compare pictures by."""
