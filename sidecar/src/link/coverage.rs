//! What the plugin covers, and who is there: hosts from the hello, sessions and rooms from snapshot and notices.
//!
//! Bounded: a server that has more sessions or occupants than this remembers is told about once, and counted no further.

use cartulary_compliance::link::{Hello, Notice};
use cartulary_compliance::status::{HostCoverage, LinkStatus};
use std::collections::{HashMap, HashSet};

/// Sessions, and occupants of all rooms together, that are remembered.
const CAPACITY: usize = 200_000;

/// What is known of the server.
#[derive(Debug, Default)]
pub struct Coverage {
    hello: Option<Hello>,
    /// The plugin was given its settings: before that it refuses everything.
    settled: bool,
    sessions: HashSet<String>,
    rooms: HashMap<String, HashSet<String>>,
    occupants: usize,
    overflowed: bool,
}

impl Coverage {
    /// A plugin said hello: what was known before is void, its snapshot follows. One that says it `again` on its connection has its
    /// settings still.
    pub fn hello(&mut self, hello: Hello, again: bool) {
        *self = Self { hello: Some(hello), settled: again && self.settled, ..Self::default() };
    }

    /// The plugin was given its settings.
    pub fn settled(&mut self) {
        self.settled = self.hello.is_some();
    }

    /// The link is gone: nothing is known.
    pub fn lost(&mut self) {
        *self = Self::default();
    }

    /// Whether a plugin is connected, said hello, and was given its settings.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.settled
    }

    /// Takes a notice of a session or a room.
    pub fn notice(&mut self, notice: &Notice) {
        match notice.name.as_str() {
            "session-up" => {
                if let Some(jid) = &notice.jid
                    && self.has_room(self.sessions.len())
                {
                    self.sessions.insert(jid.clone());
                }
            }
            "session-down" => {
                if let Some(jid) = &notice.jid {
                    self.sessions.remove(jid);
                }
            }
            "occupant-joined" => {
                if let (Some(room), Some(occupant)) = (&notice.room, &notice.occupant)
                    && self.has_room(self.occupants)
                    && self.rooms.entry(room.clone()).or_default().insert(occupant.clone())
                {
                    self.occupants += 1;
                }
            }
            "occupant-left" => {
                if let (Some(room), Some(occupant)) = (&notice.room, &notice.occupant)
                    && let Some(occupants) = self.rooms.get_mut(room)
                {
                    self.occupants -= usize::from(occupants.remove(occupant));
                    if occupants.is_empty() {
                        self.rooms.remove(room);
                    }
                }
            }
            "room-destroyed" => {
                if let Some(occupants) = notice.room.as_ref().and_then(|room| self.rooms.remove(room)) {
                    self.occupants -= occupants.len();
                }
            }
            _ => {}
        }
    }

    /// Why messages of this server are not all covered; empty when they are.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match &self.hello {
            None => vec!["the server plugin has not connected".to_owned()],
            Some(hello) if hello.hosts.is_empty() => vec!["the server plugin names no host".to_owned()],
            Some(_) if !self.settled => vec!["the server plugin has not got its settings yet".to_owned()],
            Some(hello) => hello
                .hosts
                .iter()
                .filter_map(|host| {
                    Some(format!("host {} is not armed: {}", host.name, host.problem.as_ref()?))
                })
                .collect(),
        }
    }

    /// For the status.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let hello = self.hello.as_ref();
        LinkStatus {
            connected: self.settled,
            server: hello
                .map(|hello| format!("{} {}", hello.server, hello.server_version))
                .unwrap_or_default(),
            plugin_version: hello.map(|hello| hello.plugin_version.clone()).unwrap_or_default(),
            hosts: hello
                .iter()
                .flat_map(|hello| &hello.hosts)
                .map(|host| HostCoverage { name: host.name.clone(), problem: host.problem.clone() })
                .collect(),
            sessions: self.sessions.len() as u64,
            rooms: self.rooms.len() as u64,
        }
    }

    fn has_room(&mut self, taken: usize) -> bool {
        if taken < CAPACITY {
            return true;
        }
        if !std::mem::replace(&mut self.overflowed, true) {
            tracing::warn!(CAPACITY, "the server has more sessions or occupants than are counted here");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::link::ArmedHost;

    fn notice(name: &str, who: &str) -> Notice {
        Notice {
            name: name.into(),
            jid: Some(who.into()),
            room: Some("r@rooms.example".into()),
            occupant: Some(who.into()),
            ..Notice::default()
        }
    }

    #[test]
    fn sessions_and_rooms_follow_the_notices_and_a_hello_starts_anew() {
        let mut coverage = Coverage::default();
        let hello =
            Hello { hosts: vec![ArmedHost { name: "h".into(), ..ArmedHost::default() }], ..Hello::default() };
        coverage.hello(hello.clone(), false);
        let counted = |coverage: &Coverage| (coverage.status().sessions, coverage.status().rooms);
        for (name, who, expected) in [
            ("session-up", "a", (1, 0)),
            ("session-up", "a", (1, 0)),
            ("session-up", "b", (2, 0)),
            ("session-down", "c", (2, 0)),
            ("session-down", "a", (1, 0)),
            ("occupant-left", "a", (1, 0)),
            ("occupant-joined", "a", (1, 1)),
            ("occupant-joined", "b", (1, 1)),
            ("occupant-left", "a", (1, 1)),
            ("occupant-left", "b", (1, 0)),
            ("occupant-joined", "b", (1, 1)),
            ("room-destroyed", "", (1, 0)),
            ("something-new", "", (1, 0)),
        ] {
            coverage.notice(&notice(name, who));
            assert_eq!(counted(&coverage), expected, "{name} {who}");
        }
        coverage.hello(hello, false);
        assert_eq!(counted(&coverage), (0, 0));
        coverage.lost();
        assert!(!coverage.is_connected());
    }

    #[test]
    fn coverage_is_complete_only_when_every_host_is_armed() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.problems().len(), 1);
        coverage.hello(Hello::default(), false);
        assert_eq!(coverage.problems().len(), 1);
        let mut hosts = vec![
            ArmedHost { name: "a".into(), ..ArmedHost::default() },
            ArmedHost { name: "b".into(), ..ArmedHost::default() },
        ];
        coverage.hello(Hello { hosts: hosts.clone(), ..Hello::default() }, false);
        assert_eq!(coverage.problems().len(), 1, "a plugin without settings refuses everything");
        assert!(!coverage.is_connected());
        coverage.settled();
        assert!(coverage.problems().is_empty() && coverage.is_connected());
        hosts[1].problem = Some("module not loaded".into());
        coverage.hello(Hello { hosts, ..Hello::default() }, true);
        assert_eq!(coverage.problems(), ["host b is not armed: module not loaded"]);
    }
}
