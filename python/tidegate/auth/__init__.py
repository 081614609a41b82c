"""Who somebody is and may do: keys, tokens, passwords and certificates. The engine asks; nothing here opens a port."""
