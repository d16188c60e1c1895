//! The Redis serialization protocol, versions 2 and 3: requests in, replies out.
//!
//! Source: "RESP protocol spec" of the Redis documentation.

mod number;
mod reply;
mod request;
mod skip;

pub use number::{format_float, parse_f64, parse_i64};
pub use reply::{Protocol, Reply};
pub use request::{Limits, ParseError, Parsed, Request, RequestParser};
pub use skip::fail_replies;
