"""Networks, the cards that describe them, and the folders they lie in."""
