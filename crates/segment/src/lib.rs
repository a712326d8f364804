//! Segments: images held once in shared memory, and who shares them.
