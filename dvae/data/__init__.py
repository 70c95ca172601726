"""Which picture is used when, where its bytes are, and how they become a batch."""
