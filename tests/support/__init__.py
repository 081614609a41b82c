"""What tests share: programs under control, conditions with deadlines, plain requests."""
