//! Direction is a fact of one delivery: where its recipient is, and where its sender is (MA-3).

use serde::{Deserialize, Serialize};

/// Which way one copy of a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From another server to one of ours.
    Inbound,
    /// To another server.
    Outbound,
    /// Both are ours.
    Internal,
}

impl Direction {
    /// The direction of a copy, from where its ends are.
    #[must_use]
    pub fn of(sender_is_ours: bool, recipient_is_ours: bool) -> Self {
        match (sender_is_ours, recipient_is_ours) {
            (_, false) => Self::Outbound,
            (true, true) => Self::Internal,
            (false, true) => Self::Inbound,
        }
    }

    /// Whether it is recorded with these options: an internal copy counts for either of them.
    #[must_use]
    pub fn is_recorded(self, inbound: bool, outbound: bool) -> bool {
        match self {
            Self::Inbound => inbound,
            Self::Outbound => outbound,
            Self::Internal => inbound || outbound,
        }
    }

    /// The code in records.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Inbound => 1,
            Self::Outbound => 2,
            Self::Internal => 3,
        }
    }

    /// The direction with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Inbound),
            2 => Some(Self::Outbound),
            3 => Some(Self::Internal),
            _ => None,
        }
    }

    /// The word shown to people and kept in archive columns.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{self, Inbound, Internal, Outbound};

    #[test]
    fn direction_is_decided_by_where_both_ends_are() {
        let table = [
            ((true, true), Internal),
            ((true, false), Outbound),
            ((false, true), Inbound),
            // Both elsewhere: a copy that our room sends on to a remote occupant leaves us.
            ((false, false), Outbound),
        ];
        for ((sender, recipient), expected) in table {
            assert_eq!(Direction::of(sender, recipient), expected, "{sender} {recipient}");
        }
    }

    #[test]
    fn an_internal_message_is_recorded_under_either_option_and_an_external_one_under_its_own() {
        let table = [
            (Internal, true, false, true),
            (Internal, false, true, true),
            (Internal, false, false, false),
            (Inbound, true, false, true),
            (Inbound, false, true, false),
            (Outbound, true, false, false),
            (Outbound, false, true, true),
        ];
        for (direction, inbound, outbound, expected) in table {
            assert_eq!(
                direction.is_recorded(inbound, outbound),
                expected,
                "{direction:?} {inbound} {outbound}"
            );
        }
    }
}
