//! Real clusters under test: local processes and Kubernetes, the faults they must survive, and the ledger that tells
//! whether they did. Nothing here ships; it may use all other crates, and none may use it.

pub mod clients;
pub mod cluster;
pub mod fanout;
pub mod ledger;
pub mod measure;
pub mod peer;
pub mod scenario;
pub mod sentinel;
