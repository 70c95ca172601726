"""dvae: train variational autoencoders on your own pictures, on one machine or many."""

import os

__version__ = "0.1.0"
# Asked before slow imports: a launcher may die while they last.
STARTED_BY = {os.getpid(): os.getppid()}
