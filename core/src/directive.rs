//! The directives of a node.
