//! Unmodified programs executed in place on this host.
