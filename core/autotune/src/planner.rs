//! The planner: from what all members observe to the plan the cluster should have.
//!
//! Pure, as everything here: the same for the operator, the command line and the simulator. Time is
//! passed in, as milliseconds of any epoch; nothing is measured, sent or stored.
//!
//! ```text
//! rows of all members ──read──▶ Evidence ──target──▶ Target ──Controller::step──▶ Decision
//! (Observation)        the worse     formulas    (Params,   caution: samples, cooldown,
//!                      direction                 Binding)   steps, watching, going back
//! ```
//!
//! | where | what |
//! |---|---|
//! | `observation` | what goes in |
//! | `settings` | what the owner asks for |
//! | `evidence` | what the rows come to, and what they lack |
//! | `target`, `grid` | the formulas |
//! | `controller`, `state` | when to move, and what is remembered for it |
//! | `decision` | what comes out |
//! | [`columns`] | what plans are compared with |

pub mod columns;
mod controller;
mod decision;
mod evidence;
mod grid;
mod observation;
mod settings;
mod state;
mod target;

pub use controller::Controller;
pub use decision::{Blame, Change, Decision, Event, Freeze, Hold, Step};
pub use evidence::{Evidence, Reading, read};
pub use grid::{fit, grid_down, grid_up};
pub use observation::{
    Context, Elections, Link, MemberRow, Observation, PROBE_INTERVAL_US, Writes,
};
pub use settings::{Bounds, BoundsError, ELECTION_US_FLOOR, Guards, Mode, Policy, Settings};
pub use state::{Counted, Kind, Pending, State, Verifying};
pub use target::{Binding, Target, failover_us, target};
