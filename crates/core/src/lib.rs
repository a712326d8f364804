//! What execute in place is: memory that is storage, and the file operations over it.
