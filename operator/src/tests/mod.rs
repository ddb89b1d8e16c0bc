//! The shell against an API server and members that live in memory: which requests are sent, what they
//! leave behind, and what becomes of it when the operator is killed between two of them.

mod fake_api;
mod fake_members;
mod idle;
mod lease;
mod passes;
mod traces;
