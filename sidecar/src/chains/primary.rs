//! The sessions that compliance servers named to get what is sent to their accounts (`e_PRISESSION`, PR-10).
//!
//! Bounded; a name is forgotten with its session. It outranks priorities: the session that was named need not be among those that would get
//! a message without it. The plugin applies it while that session is available.

use cartulary_compliance::link::{Event, Subject, Target};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Accounts remembered. One more than this is not.
const CAPACITY: usize = 100_000;

/// Resources by bare JID.
#[derive(Default)]
pub struct Primaries {
    named: RwLock<HashMap<String, String>>,
}

impl Primaries {
    /// This session gets what is sent to its account.
    pub fn name(&self, full: &str) {
        let Some((bare, resource)) = full.split_once('/') else { return };
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if named.len() < CAPACITY || named.contains_key(bare) {
            named.insert(bare.to_owned(), resource.to_owned());
        }
    }

    /// This session has ended.
    pub fn forget(&self, full: &str) {
        let Some((bare, resource)) = full.split_once('/') else { return };
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if named.get(bare).is_some_and(|known| known == resource) {
            named.remove(bare);
        }
    }

    /// Another process of the server has other sessions.
    pub fn clear(&self) {
        self.named.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The session that gets this message, where one was named and is there.
    #[must_use]
    pub fn of(&self, event: &Event) -> Option<String> {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        if named.is_empty() || event.subject != Subject::Message || event.target != Target::LocalUser {
            return None;
        }
        // What is sent to a full JID is for that session.
        let to = event.to.as_deref().filter(|to| !to.contains('/'))?;
        let resource = named.get(to)?;
        // Who is away gets it later.
        let is_there = event.recipients.iter().any(|known| known.bare == to && !known.resources.is_empty());
        is_there.then(|| resource.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::link::Recipient;

    #[test]
    fn pr_10_the_session_a_server_named_gets_what_is_sent_to_the_account_while_it_is_there() {
        let primaries = Primaries::default();
        let there = |resources: &[&str]| Event {
            recipients: vec![Recipient {
                bare: "juliet@here.example".into(),
                occupant: None,
                resources: resources.iter().map(|resource| (*resource).into()).collect(),
            }],
            ..crate::fixture::event("hello")
        };
        let both = there(&["pc", "phone"]);
        assert_eq!(primaries.of(&both), None);
        primaries.name("juliet@here.example/phone");
        assert_eq!(primaries.of(&both).as_deref(), Some("phone"));
        // Whatever its priority.
        assert_eq!(primaries.of(&there(&["pc"])).as_deref(), Some("phone"));
        assert_eq!(primaries.of(&there(&[])), None);
        let to_pc = Event { to: Some("juliet@here.example/pc".into()), ..both.clone() };
        assert_eq!(primaries.of(&to_pc), None);
        primaries.forget("juliet@here.example/pc");
        assert!(primaries.of(&both).is_some());
        primaries.forget("juliet@here.example/phone");
        assert_eq!(primaries.of(&both), None);
    }
}
