//! What a stanza says, as far as its events depend on it.

use crate::xml::{CLIENT, Deeper, Item, SERVER, Start, Walk};

const MUC: &str = "http://jabber.org/protocol/muc";
const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
const MUC_ADMIN: &str = "http://jabber.org/protocol/muc#admin";
const MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";
const CONFERENCE: &str = "jabber:x:conference";
const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
const BROWSE: &str = "jabber:iq:browse";
const MAM: [&str; 3] = ["urn:xmpp:mam:2", "urn:xmpp:mam:1", "urn:xmpp:mam:0"];
const DATA: &str = "jabber:x:data";
/// The stanza, its children, and theirs.
const DEPTH: usize = 3;

/// What an iq asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Asks {
    /// Nothing that has an event of its own.
    #[default]
    Other,
    /// disco#info, disco#items or what was before them.
    DiscoInfo,
    DiscoItems,
    /// An archive.
    Archive,
    /// Somebody's role or affiliation in a room.
    Admin,
    /// A room's settings, or its end.
    Owner,
}

/// How a set of muc#admin changes somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Affiliation,
    NoAffiliation,
    Role,
}

/// What was seen of a stanza.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Glance {
    /// `message`, `presence` or `iq`.
    pub(super) name: String,
    /// The `type` attribute.
    pub(super) kind: Option<String>,
    /// The `from` attribute.
    pub(super) from: Option<String>,
    pub(super) has_subject: bool,
    pub(super) has_body: bool,
    /// A mediated invitation (XEP-0045, 7.8.2).
    pub(super) invites: bool,
    /// The room of a direct invitation (XEP-0249).
    pub(super) invited_to: Option<String>,
    /// A join that wants nothing of the room's history.
    pub(super) wants_no_history: bool,
    pub(super) asks: Asks,
    /// Changes of muc#admin, each kind once, in order.
    pub(super) changes: Vec<Change>,
    /// muc#owner: the room is to be closed.
    pub(super) destroys: bool,
    /// muc#owner: a form is handed in.
    pub(super) has_form: bool,
}

impl Glance {
    /// Looks at a stanza; `None` where it is no XML or no stanza.
    pub(super) fn at(stanza: &str) -> Option<Self> {
        let mut walk = Walk::new(stanza, DEPTH, Deeper::Skip);
        let (mut glance, mut open): (Self, Vec<Start>) = (Self::default(), Vec::new());
        while let Some(item) = walk.next().ok()? {
            match item {
                Item::Enter(start) => {
                    match open.as_slice() {
                        [] => glance.root(&start)?,
                        [_] => glance.child(&start),
                        [_, parent] => glance.grandchild(parent, &start),
                        _ => {}
                    }
                    open.push(start);
                }
                Item::Text(_) => {}
                Item::Leave => _ = open.pop(),
            }
        }
        Some(glance)
    }

    /// Whether it is of this type.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    fn root(&mut self, start: &Start) -> Option<()> {
        if !matches!(&*start.namespace, CLIENT | SERVER)
            || !matches!(start.name.as_str(), "message" | "presence" | "iq")
        {
            return None;
        }
        self.name.clone_from(&start.name);
        self.kind = start.attribute("type").map(str::to_owned);
        self.from = start.attribute("from").map(str::to_owned);
        Some(())
    }

    fn child(&mut self, start: &Start) {
        match self.name.as_str() {
            "message" => {
                self.has_subject |= start.name == "subject" && matches!(&*start.namespace, CLIENT | SERVER);
                self.has_body |= start.name == "body" && matches!(&*start.namespace, CLIENT | SERVER);
                if start.is("x", CONFERENCE) && self.invited_to.is_none() {
                    self.invited_to = start.attribute("jid").map(str::to_owned);
                }
            }
            "iq" if self.asks == Asks::Other => self.asks = asks(start),
            _ => {}
        }
    }

    fn grandchild(&mut self, parent: &Start, start: &Start) {
        match self.name.as_str() {
            "message" => self.invites |= parent.is("x", MUC_USER) && start.is("invite", MUC_USER),
            "presence" if parent.is("x", MUC) && start.is("history", MUC) => {
                let is_zero =
                    |name| start.attribute(name).is_some_and(|text| text.trim().parse::<u64>() == Ok(0));
                self.wants_no_history |= is_zero("maxstanzas") || is_zero("maxchars");
            }
            "iq" if parent.is("query", MUC_ADMIN) && start.is("item", MUC_ADMIN) => {
                match start.attribute("affiliation") {
                    Some("none") => self.change(Change::NoAffiliation),
                    Some(_) => self.change(Change::Affiliation),
                    None => {}
                }
                if start.attribute("role").is_some() {
                    self.change(Change::Role);
                }
            }
            "iq" if parent.is("query", MUC_OWNER) => {
                self.destroys |= start.is("destroy", MUC_OWNER);
                // Taking a form back changes nothing.
                self.has_form |= start.is("x", DATA) && start.attribute("type") != Some("cancel");
            }
            _ => {}
        }
    }

    fn change(&mut self, change: Change) {
        if !self.changes.contains(&change) {
            self.changes.push(change);
        }
    }
}

fn asks(start: &Start) -> Asks {
    match (start.name.as_str(), &*start.namespace) {
        ("query", DISCO_INFO) => Asks::DiscoInfo,
        ("query", DISCO_ITEMS) | (_, BROWSE) => Asks::DiscoItems,
        ("query", namespace) if MAM.contains(&namespace) => Asks::Archive,
        ("query", MUC_ADMIN) => Asks::Admin,
        ("query", MUC_OWNER) => Asks::Owner,
        _ => Asks::Other,
    }
}
