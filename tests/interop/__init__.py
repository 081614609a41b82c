"""tidegate against independent implementations of the protocols it speaks."""
