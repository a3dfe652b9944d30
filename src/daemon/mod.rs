//! The daemon: one task owns the table of instances; everybody else holds a handle or a snapshot.
