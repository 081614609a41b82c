"""What a user types: one file a command. Nothing here knows how things are done."""
