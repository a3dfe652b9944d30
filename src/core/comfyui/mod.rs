//! What is known of ComfyUI without asking it: lists of nodes, templates, which torch fits, and what its output means.

pub mod diagnosis;
pub mod help;
pub mod imports;
pub mod manifest;
pub mod template;
pub mod torch;
