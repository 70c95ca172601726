"""dvae: train variational autoencoders on your own pictures, on one machine or many."""

import os

__version__ = "0.1.0"
STARTED_BY = {os.getpid(): os.getppid()}  # asked before slow imports, while which a launcher may die
