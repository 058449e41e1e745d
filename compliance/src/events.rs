//! The catalogue of events that compliance servers are asked about or told of (PR-7, PR-8, PR-9, PR-11).
//!
//! One table: name, group, what may be answered, what an undecided one gets by default, and how far each XMPP server yields it. Docs
//! (`docs/events.md`) and the enumeration in the `Profile` kind are checked against it.

use serde::{Deserialize, Serialize};

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Sessions and packets (Jabber Session Manager); takes packet types.
    Jsm,
    /// Rooms (Text Conferencing).
    Tc,
}

/// What may be answered (PR-8, PR-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answers {
    /// Anything.
    Any,
    /// PASS alone: any other answer is ignored, counted and reported, and the event goes on.
    Pass,
    /// It is told and not answered.
    Nothing,
}

impl Answers {
    /// The word on the wire (attribute `answer`).
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Pass => "pass",
            Self::Nothing => "none",
        }
    }
}

/// What an XMPP server yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Yield {
    /// The server waits for the answer before anything happens.
    Held,
    /// It is told after it happened: answers change nothing. Why, for people.
    Told(&'static str),
}

/// What happens to a stanza when a server answers with an error, or when nobody answers (PR-1, FH-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handling {
    /// It is refused: its sender gets the error.
    Bounce,
    /// It goes on unchanged.
    Pass,
}

/// Packet types of JSM events (PR-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packet {
    /// `<iq/>`.
    Iq,
    /// `<message/>`.
    Message,
    /// `<presence/>` that is no subscription.
    Presence,
    /// `<presence/>` of type subscribe, subscribed, unsubscribe or unsubscribed.
    Subscription,
}

impl Packet {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Iq, Self::Message, Self::Presence, Self::Subscription];

    /// The word on the wire (attribute `packet`) and in declarations.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Iq => "iq",
            Self::Message => "message",
            Self::Presence => "presence",
            Self::Subscription => "subscription",
        }
    }
}

/// One row of the catalogue.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Its name, as in profiles and on the wire.
    pub name: &'static str,
    /// Its group.
    pub group: Group,
    /// What may be answered.
    pub answers: Answers,
    /// What an undecided one gets where the profile does not say.
    pub default_handling: Handling,
    /// What Prosody yields.
    pub prosody: Yield,
    /// What it means.
    pub meaning: &'static str,
}

const AFTER: &str = "it is told after it happened";

macro_rules! catalogue {
    ($($constant:ident $name:literal $group:ident $answers:ident $handling:ident $yield:expr, $meaning:literal)*) => {
        $(
            #[doc = $meaning]
            pub static $constant: Event = Event {
                name: $name,
                group: Group::$group,
                answers: Answers::$answers,
                default_handling: Handling::$handling,
                prosody: $yield,
                meaning: $meaning,
            };
        )*
        /// All events, in the order in which they are listed.
        pub static ALL: &[&Event] = &[$(&$constant),*];
    };
}

// Session and presence events pass when nobody decides, messages and room events bounce (FH-2); a packet event's default follows its
// packet (`default_handling`), the column says it for messages. What cannot be refused passes.
catalogue! {
    E_SESSION "e_SESSION" Jsm Any Pass Yield::Held, "A session is about to be made: a client that has logged in binds a resource."
    E_OFFLINE "e_OFFLINE" Jsm Any Bounce Yield::Held, "A packet for a user of this server who has no session."
    E_SERVER "e_SERVER" Jsm Any Bounce Yield::Held, "A packet to the server itself."
    E_DELIVER "e_DELIVER" Jsm Any Bounce Yield::Held, "A packet for a user of this server: the first event of what comes from another server, the second of what a local user sends."
    E_AUTH "e_AUTH" Jsm Any Pass Yield::Told("Prosody tells that a login succeeded when it has; refuse e_SESSION to keep somebody out"), "A client has proved who it is; rendered as an IQ without secrets."
    E_REGISTER "e_REGISTER" Jsm Any Pass Yield::Told("Prosody tells of an account when it is made"), "An account was registered."
    E_STATS "e_STATS" Jsm Any Pass Yield::Told("the sidecar sends them by its own clock"), "Statistics of the server, every so often."
    E_DISCOFEAT "e_DISCOFEAT" Jsm Any Bounce Yield::Held, "A user asks for disco#info."
    E_PRISESSION "e_PRISESSION" Jsm Any Pass Yield::Held, "A user with several sessions changes their order; the answer may name the session that gets what is sent to the bare address."
    ES_IN "es_IN" Jsm Any Bounce Yield::Held, "A packet is about to be received: one question with everybody who would get it, of whom some may be excepted."
    ES_OUT "es_OUT" Jsm Any Bounce Yield::Held, "A packet was sent from a session."
    ES_END "es_END" Jsm Any Pass Yield::Told(AFTER), "A session has ended."

    ON_SERVICE_PACKET "onServicePacket" Tc Any Bounce Yield::Held, "A packet to the service of rooms, or to a room that is not there."
    ON_BEFORE_ROOM_CREATE "onBeforeRoomCreate" Tc Any Bounce Yield::Held, "A room is about to be made."
    ON_AFTER_ROOM_CREATE "onAfterRoomCreate" Tc Pass Pass Yield::Told(AFTER), "A room was made."
    ON_SERVICE_DISCO_INFO "onServiceDiscoInfo" Tc Pass Pass Yield::Held, "Somebody asks the service of rooms for disco#info."
    ON_SERVICE_RECONFIG "onServiceReconfig" Tc Nothing Pass Yield::Told(AFTER), "The service of rooms has read its settings again."
    ON_DESTROY "onDestroy" Tc Pass Pass Yield::Told(AFTER), "A room was closed."
    ON_CLOSE "onClose" Tc Any Bounce Yield::Held, "A room is about to be closed; where a part of the server closes it, it is told."
    ON_PACKET "onPacket" Tc Any Bounce Yield::Held, "A packet to a room or to somebody in it."
    ON_META_INFO_GET "onMetaInfoGet" Tc Pass Pass Yield::Held, "Somebody reads the settings of a room."
    ON_BEFORE_META_INFO_SET "onBeforeMetaInfoSet" Tc Any Bounce Yield::Held, "Settings of a room are about to change."
    ON_AFTER_META_INFO_SET "onAfterMetaInfoSet" Tc Pass Pass Yield::Told(AFTER), "Settings of a room were changed."
    ON_EXAMINE_ROOM "onExamineRoom" Tc Pass Pass Yield::Held, "Somebody asks a room what it is or who is there (disco)."
    ON_BEFORE_CHANGE_USER "onBeforeChangeUser" Tc Any Bounce Yield::Held, "Somebody in a room is about to enter, leave, change nickname, availability or role."
    ON_AFTER_CHANGE_USER "onAfterChangeUser" Tc Pass Pass Yield::Told(AFTER), "Somebody in a room has entered, left, changed nickname, availability or role."
    ON_BEFORE_CHANGE_AFFILIATION "onBeforeChangeAffiliation" Tc Any Bounce Yield::Held, "Somebody's affiliation to a room is about to change."
    ON_AFTER_CHANGE_AFFILIATION "onAfterChangeAffiliation" Tc Pass Pass Yield::Told(AFTER), "Somebody's affiliation to a room was changed."
    ON_BEFORE_REMOVE_AFFILIATION "onBeforeRemoveAffiliation" Tc Any Bounce Yield::Held, "Somebody's affiliation to a room is about to be taken away."
    ON_AFTER_REMOVE_AFFILIATION "onAfterRemoveAffiliation" Tc Pass Pass Yield::Told(AFTER), "Somebody's affiliation to a room was taken away."
    ON_BEFORE_JOIN "onBeforeJoin" Tc Any Bounce Yield::Held, "Somebody is about to join a room."
    ON_AFTER_JOIN "onAfterJoin" Tc Pass Pass Yield::Told(AFTER), "Somebody has joined a room."
    ON_LEAVE "onLeave" Tc Pass Pass Yield::Told(AFTER), "Somebody has left a room."
    ON_BEFORE_SUBJECT "onBeforeSubject" Tc Any Bounce Yield::Held, "The subject of a room is about to change."
    ON_AFTER_SUBJECT "onAfterSubject" Tc Pass Pass Yield::Told(AFTER), "The subject of a room was changed."
    ON_BEFORE_INVITE "onBeforeInvite" Tc Any Bounce Yield::Held, "An invitation to a room is about to go out."
    ON_AFTER_INVITE "onAfterInvite" Tc Pass Pass Yield::Told(AFTER), "Somebody was invited to a room."
    ON_HISTORY "onHistory" Tc Pass Pass Yield::Held, "The history of a room is asked for: by joining, or as an archive query."
    ON_BEFORE_SEND "onBeforeSend" Tc Any Bounce Yield::Held, "Something is about to be said in a room."
    ON_BEFORE_BROADCAST "onBeforeBroadcast" Tc Any Bounce Yield::Held, "Something said in a room is about to go to everybody in it."
}

impl Event {
    /// What an undecided one gets where the profile does not say: presence and subscriptions pass whatever the event (FH-2).
    #[must_use]
    pub fn default_handling(&self, packet: Packet) -> Handling {
        match (self.group, packet) {
            (Group::Jsm, Packet::Presence | Packet::Subscription) => Handling::Pass,
            _ => self.default_handling,
        }
    }
}

/// The event with this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Event> {
    ALL.iter().copied().find(|event| event.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twelve_events_of_sessions_and_twenty_eight_of_rooms_each_once() {
        let of = |group| ALL.iter().filter(|event| event.group == group).count();
        assert_eq!((of(Group::Jsm), of(Group::Tc)), (12, 28));
        for event in ALL {
            assert_eq!(by_name(event.name), Some(*event));
        }
    }

    #[test]
    fn what_cannot_be_refused_passes_when_nobody_decides() {
        for event in ALL {
            if event.answers != Answers::Any || event.prosody != Yield::Held {
                assert_eq!(event.default_handling, Handling::Pass, "{}", event.name);
            }
        }
    }
}
