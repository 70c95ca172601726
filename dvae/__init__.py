"""dvae: train variational autoencoders on your own pictures, on one machine or many."""

__version__ = "0.1.0"
