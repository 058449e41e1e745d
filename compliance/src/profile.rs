//! Profiles: which events go to the compliance servers that hold them, and what is done with the answers (PR-1 to PR-6).

use crate::events::{self, Event, Group, Handling, Packet};
use serde::{Deserialize, Serialize};

/// The profile that is always there (PR-4), by its source-style name and as the name of a resource.
pub const SYSTEM_DEFAULT: &str = "SystemDefaultComplianceProfile";
/// The same as Kubernetes writes names.
pub const SYSTEM_DEFAULT_RESOURCE: &str = "system-default-compliance-profile";

/// A profile with the servers that hold it, as sidecars know it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Its name as compliance servers see it: the source-style name where there is one.
    pub name: String,
    /// Its events, each at most once.
    pub events: Vec<Rule>,
    /// Names of the servers that share its events, sorted.
    pub servers: Vec<String>,
    /// The nodes it is in force on; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}

/// What is done about one event.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The event's name.
    pub event: String,
    /// Packet types it is about; empty for all. Always empty for TC events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packets: Vec<Packet>,
    /// What errors and undecided events become; the event's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handling: Option<Handling>,
    /// Sent without waiting. With `bounce` the stanza is then discarded (PR-2).
    #[serde(default)]
    pub fire_and_forget: bool,
}

impl Profile {
    /// The rule about this event and packet, if any.
    #[must_use]
    pub fn rule(&self, event: &Event, packet: Packet) -> Option<&Rule> {
        self.events.iter().find(|rule| rule.event == event.name && rule.is_about(event, packet))
    }

    /// Whether it is in force on this node.
    #[must_use]
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.iter().any(|named| named == node))
    }
}

impl Rule {
    /// A rule with the event's defaults.
    #[must_use]
    pub fn new(event: &Event) -> Self {
        Self { event: event.name.to_owned(), packets: Vec::new(), handling: None, fire_and_forget: false }
    }

    fn is_about(&self, event: &Event, packet: Packet) -> bool {
        event.group == Group::Tc || self.packets.is_empty() || self.packets.contains(&packet)
    }

    /// What an error or an undecided event becomes.
    #[must_use]
    pub fn handling(&self, event: &Event, packet: Packet) -> Handling {
        self.handling.unwrap_or_else(|| event.default_handling(packet))
    }
}

/// The events of the system default profile (PR-4).
#[must_use]
pub fn system_default() -> Vec<Rule> {
    let whole = [
        &events::E_SESSION,
        &events::ES_END,
        &events::ON_BEFORE_INVITE,
        &events::ON_BEFORE_JOIN,
        &events::ON_BEFORE_ROOM_CREATE,
        &events::ON_BEFORE_SEND,
        &events::ON_LEAVE,
    ];
    let messages = [&events::ES_IN, &events::ES_OUT];
    let mut rules: Vec<Rule> = whole.into_iter().map(Rule::new).collect();
    rules.extend(
        messages.into_iter().map(|event| Rule { packets: vec![Packet::Message], ..Rule::new(event) }),
    );
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pr_4_the_system_default_has_four_session_and_five_room_events_that_are_awaited() {
        let rules = system_default();
        let of = |group| {
            rules.iter().filter(|rule| events::by_name(&rule.event).expect("known").group == group).count()
        };
        assert_eq!((of(Group::Jsm), of(Group::Tc)), (4, 5));
        assert!(rules.iter().all(|rule| !rule.fire_and_forget));
        let profile =
            Profile { name: SYSTEM_DEFAULT.into(), events: rules, servers: vec!["a".into()], nodes: None };
        assert!(profile.rule(&events::ES_OUT, Packet::Message).is_some());
        assert!(profile.rule(&events::ES_OUT, Packet::Presence).is_none());
        assert!(profile.rule(&events::ES_END, Packet::Presence).is_some());
    }
}
