//! Peers that break the rules or drown the other side: the session ends, says why, and holds no memory for them.
