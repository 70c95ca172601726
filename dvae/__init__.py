"""dvae: train variational autoencoders on your own pictures, on one machine or many."""

import os

__version__ = "0.1.0"
PARENT = os.getppid()  # asked before slow imports, during which a launcher may die
