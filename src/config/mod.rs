//! Ecosystem files: finding, reading, checking, and their JSON Schema.
