"""The programs as people run them, with the real programs of others around them."""
