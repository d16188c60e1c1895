//! The engine: observe, plan, apply, execute, publish; the same for every provider.
