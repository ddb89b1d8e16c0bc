//! What the cluster knows, as a pure function from commands to outcomes.

pub mod record;

pub use record::{Record, RecordError, Revision};
