//! Alarms: what is wrong, and with which member.
//!
//! An alarm is raised and lowered through the log, and refuses commands from then on, on all members
//! alike. NOSPACE refuses what needs space, CORRUPT everything that touches keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};

use crate::parts::{Row, RowChange, Table};

/// The alarms that are on. `Clone` is cheap and the copies are independent.
#[derive(Clone, Default)]
pub(crate) struct Alarms(Arc<BTreeSet<(u64, i32)>>);

impl Alarms {
    pub(crate) fn is_on(&self, kind: AlarmType) -> bool {
        self.0.iter().any(|(_, raised)| *raised == kind as i32)
    }

    /// Alarms of a kind, or all for [`AlarmType::None`], by member.
    pub(crate) fn of(&self, kind: AlarmType) -> Vec<AlarmMember> {
        self.0
            .iter()
            .filter(|(_, raised)| kind == AlarmType::None || *raised == kind as i32)
            .map(|&(member_id, alarm)| AlarmMember { member_id, alarm })
            .collect()
    }

    /// Carries a request out. Returns the alarms to answer with and the change to keep, if any.
    /// A kind or action that does not exist changes nothing, nor does [`AlarmType::None`].
    pub(crate) fn apply(
        &mut self,
        request: &AlarmRequest,
    ) -> (Vec<AlarmMember>, Option<RowChange>) {
        let (Ok(kind), Ok(action)) =
            (AlarmType::try_from(request.alarm), AlarmAction::try_from(request.action))
        else {
            return (Vec::new(), None);
        };
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let place = (alarm.member_id, alarm.alarm);
        match action {
            AlarmAction::Get => (self.of(kind), None),
            _ if kind == AlarmType::None => (Vec::new(), None),
            AlarmAction::Activate => {
                let raised = Arc::make_mut(&mut self.0).insert(place);
                (vec![alarm], raised.then(|| row_change(place, Some(Vec::new()))))
            }
            AlarmAction::Deactivate => {
                if Arc::make_mut(&mut self.0).remove(&place) {
                    (vec![alarm], Some(row_change(place, None)))
                } else {
                    (Vec::new(), None)
                }
            }
        }
    }

    /// One row an alarm: the key is member and kind, the value empty.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> {
        self.0.iter().map(|&place| Row {
            table: Table::Alarm,
            key: row_key(place),
            value: Vec::new(),
        })
    }

    /// Takes in a row; `None` if it is not an alarm's.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (member_id, kind) = key.split_at_checked(8)?;
        let member_id = u64::from_be_bytes(member_id.try_into().ok()?);
        let kind = i32::from_be_bytes(kind.try_into().ok()?);
        let known = AlarmType::try_from(kind).is_ok_and(|kind| kind != AlarmType::None);
        let new = known && value.is_empty() && Arc::make_mut(&mut self.0).insert((member_id, kind));
        new.then_some(())
    }
}

fn row_key((member_id, kind): (u64, i32)) -> Vec<u8> {
    let mut key = member_id.to_be_bytes().to_vec();
    key.extend_from_slice(&kind.to_be_bytes());
    key
}

fn row_change(place: (u64, i32), value: Option<Vec<u8>>) -> RowChange {
    RowChange { table: Table::Alarm, key: row_key(place), value }
}
