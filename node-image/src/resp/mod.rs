//! The Redis serialization protocol, versions 2 and 3: requests in, replies out.
//!
//! Source: "RESP protocol spec" of the Redis documentation.

mod number;
mod reply;
mod request;

pub use number::{format_float, parse_f64, parse_i64};
pub use reply::{Protocol, Reply};
pub use request::{Limits, ParseError, Parsed, Request, RequestParser};
