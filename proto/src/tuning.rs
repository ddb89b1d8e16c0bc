//! Plans of timing as messages and as the planner has them; with the `tuning` feature.
//!
//! Whoever keeps plans, submits them or reads them off a member goes this way, so that a field is
//! forgotten either nowhere or everywhere.

use autotune::{BatchBounds, Origin, PLAN_FORMAT_BASE, Params, Phase, Plan, Timing};

use crate::log::{Tuning, TuningOrigin, TuningParams};

/// The plan a record is of. What was never a plan has settled; a plan in a phase that is not known
/// counts as on its way.
#[must_use]
pub fn plan_of(said: &Tuning) -> Plan {
    let from = said.from.unwrap_or_default();
    let phase = match (said.epoch, said.phase) {
        (0, _) => Phase::Settled,
        (_, phase) => Phase::of(u64::from(phase)).unwrap_or(Phase::Raise),
    };
    Plan {
        epoch: said.epoch,
        phase,
        from: Origin {
            params: from.params.as_ref().map(params_of),
            election_us_min: from.election_us_min,
            flags: from.flags,
        },
        to: said.to.as_ref().map(params_of),
    }
}

/// Where a plan began, as a message.
#[must_use]
pub fn origin_said(origin: &Origin) -> TuningOrigin {
    let Origin { params, election_us_min, flags } = *origin;
    TuningOrigin { params: params.as_ref().map(params_said), election_us_min, flags }
}

/// The values a message says.
#[must_use]
pub fn params_of(said: &TuningParams) -> Params {
    let TuningParams {
        heartbeat_interval_us,
        election_timeout_us,
        lease_us,
        batch_commands_max,
        linger_us_max,
        message_bytes_max,
        inflight_messages_max,
        inflight_bytes_max,
        no_compression,
        format: _,
    } = *said;
    Params {
        timing: Timing { heartbeat_interval_us, election_timeout_us },
        lease_us,
        bounds: BatchBounds {
            batch_commands_max,
            linger_us_max,
            message_bytes_max,
            inflight_messages_max,
            inflight_bytes_max,
            compression: !no_compression,
        },
    }
}

/// The form a message is written in.
#[must_use]
pub fn format_of(said: &TuningParams) -> u32 {
    said.format.max(params_of(said).format())
}

/// The values as a message.
#[must_use]
pub fn params_said(params: &Params) -> TuningParams {
    let Params { timing, lease_us, bounds } = *params;
    let BatchBounds {
        batch_commands_max,
        linger_us_max,
        message_bytes_max,
        inflight_messages_max,
        inflight_bytes_max,
        compression,
    } = bounds;
    TuningParams {
        heartbeat_interval_us: timing.heartbeat_interval_us,
        election_timeout_us: timing.election_timeout_us,
        lease_us,
        batch_commands_max,
        linger_us_max,
        message_bytes_max,
        inflight_messages_max,
        inflight_bytes_max,
        no_compression: !compression,
        // The first form had no number.
        format: Some(params.format()).filter(|format| *format > PLAN_FORMAT_BASE).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_there_and_back() {
        let params = Params { lease_us: 7, ..Params::default() };
        assert_eq!(params_of(&params_said(&params)), params);
        assert_eq!((params_said(&params).format, format_of(&params_said(&params))), (0, 1));
        let bounds = BatchBounds { compression: false, ..BatchBounds::default() };
        let plain = Params { bounds, ..params };
        assert_eq!(params_of(&params_said(&plain)), plain);
        assert_eq!(params_said(&plain).format, 2);
        // Of a form this version does not know, the number stands.
        assert_eq!(format_of(&TuningParams { format: 9, ..params_said(&plain) }), 9);
        let origin = Origin { params: Some(params), election_us_min: 5, flags: true };
        let said = Tuning { epoch: 3, from: Some(origin_said(&origin)), ..Tuning::default() };
        assert_eq!(plan_of(&said).from, origin);
    }

    #[test]
    fn what_was_never_a_plan_has_settled_and_an_unknown_phase_is_on_its_way() {
        assert_eq!(plan_of(&Tuning::default()), Plan::default());
        let strange = Tuning { epoch: 1, phase: 99, ..Tuning::default() };
        assert_eq!(plan_of(&strange).phase, Phase::Raise);
    }
}
