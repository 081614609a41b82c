"""The demonstration: a sample service, the programs around it, and the requests that are sent through them."""
