//! The keeper of MetaStore clusters on Kubernetes.
//!
//! One pass over one resource: `observe` reads the resource, its objects and every member into one
//! plain value ([`observed::Observed`]); [`plan::plan`] is pure and says what to do next, at most one
//! step of it disruptive; `act` is the only writer. What was begun is told from what is there, not
//! from memory, so an operator that is killed between any two steps goes on where it was.

mod act;
mod api;
pub mod certificates;
pub mod check;
mod clock;
pub mod config;
mod controller;
pub mod crd;
mod decide;
pub mod events;
mod facts;
mod founding;
mod http;
mod leader;
mod members;
mod membership;
mod memory;
mod metrics;
mod observe;
pub mod observed;
pub mod plan;
pub mod quantity;
pub mod resources;
mod roll;
mod rows;
pub mod run;
pub mod status;
mod telemetry;
#[cfg(test)]
mod tests;
mod tune;
