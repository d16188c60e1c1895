//! The KV node.
