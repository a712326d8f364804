//! Images laid out for execution in place, built without root.
