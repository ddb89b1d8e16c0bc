//! Prints the reference of a member's metrics: `cargo xtask gen` writes `docs/reference/metrics.md`
//! from it.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(server::metrics::reference().as_bytes())
}
