//! A volume as a mounted file system.
