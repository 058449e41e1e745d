//! verdict: what happens to a held stanza, and to whom something else happens.

use super::fields::{DecodeError, Field, Fields, FieldsWriter};

/// What happens to a stanza or to one recipient's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It goes on as it is.
    Deliver,
    /// This goes on in its place, with the original's addresses.
    Replace(String),
    /// It ends here without a word.
    Drop,
    /// It ends here and its sender gets an error.
    Bounce(Bounce),
}

/// A stanza error (RFC 6120, 8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounce {
    /// `cancel`, `wait`, `modify`, `auth` or `continue`.
    pub error_type: String,
    /// The defined condition.
    pub condition: String,
    /// Text for the sender.
    pub text: Option<String>,
}

/// What happens to one recipient's copy instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Bare JID, or full JID, which wins.
    pub recipient: String,
    /// What happens to that copy.
    pub action: Action,
}

/// The answer to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What happens to everybody not named in an exception.
    pub action: Action,
    /// Who is treated otherwise.
    pub exceptions: Vec<Exception>,
    /// The event's UUID, when something was recorded.
    pub event_id: Option<[u8; 16]>,
    /// Whether an outcome is wanted.
    pub outcome_wanted: bool,
    /// The addressee's session that gets it, of several that could: it goes on as if it had been sent to that full JID.
    pub resource: Option<String>,
    /// Nobody gets a copy from a room but who was named in the event: what others may get was not decided.
    pub named_only: bool,
}

impl Verdict {
    /// A verdict without exceptions, of which nothing was recorded.
    #[must_use]
    pub fn unrecorded(action: Action) -> Self {
        Self {
            action,
            exceptions: Vec::new(),
            event_id: None,
            outcome_wanted: false,
            resource: None,
            named_only: false,
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut action = ActionFields::default();
        let (mut exceptions, mut event_id, mut outcome_wanted, mut resource, mut named_only) =
            (Vec::new(), None, false, None, false);
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1..=5 => action.take(field, field.tag)?,
                6 => exceptions.push(Exception::decode(field.nested())?),
                7 => event_id = Some(field.array()?),
                8 => outcome_wanted = field.u8()? != 0,
                9 => resource = Some(field.string()?),
                10 => named_only = field.u8()? != 0,
                _ => {}
            }
        }
        Ok(Self { action: action.finish(1)?, exceptions, event_id, outcome_wanted, resource, named_only })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        self.action.encode(&mut w, 1);
        for exception in &self.exceptions {
            w.nested(6, |w| {
                w.text(1, &exception.recipient);
                exception.action.encode(w, 2);
            });
        }
        if let Some(id) = &self.event_id {
            w.bytes(7, id);
        }
        w.bytes(8, &[u8::from(self.outcome_wanted)]).maybe(9, self.resource.as_deref());
        if self.named_only {
            w.bytes(10, &[1]);
        }
        w.finish()
    }
}

impl Exception {
    fn decode(fields: Fields<'_>) -> Result<Self, DecodeError> {
        let (mut recipient, mut action) = (None, ActionFields::default());
        for field in fields {
            let field = field?;
            match field.tag {
                1 => recipient = Some(field.string()?),
                2..=6 => action.take(field, field.tag - 1)?,
                _ => {}
            }
        }
        Ok(Self { recipient: recipient.ok_or(DecodeError::Missing(1))?, action: action.finish(2)? })
    }
}

impl Action {
    /// The code, on the wire and in records.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Deliver => 0,
            Self::Replace(_) => 1,
            Self::Drop => 2,
            Self::Bounce(_) => 3,
        }
    }

    /// Writes the five fields of an action, the first at `base`.
    fn encode(&self, w: &mut FieldsWriter, base: u16) {
        w.bytes(base, &[self.code()]);
        match self {
            Self::Replace(stanza) => {
                w.text(base + 1, stanza);
            }
            Self::Bounce(bounce) => {
                w.text(base + 2, &bounce.error_type)
                    .text(base + 3, &bounce.condition)
                    .maybe(base + 4, bounce.text.as_deref());
            }
            Self::Deliver | Self::Drop => {}
        }
    }
}

/// The five fields of an action while they are being read, numbered as in a verdict.
#[derive(Default)]
struct ActionFields {
    code: Option<u8>,
    replacement: Option<String>,
    error_type: Option<String>,
    condition: Option<String>,
    text: Option<String>,
}

impl ActionFields {
    fn take(&mut self, field: Field<'_>, number: u16) -> Result<(), DecodeError> {
        match number {
            1 => self.code = Some(field.u8()?),
            2 => self.replacement = Some(field.string()?),
            3 => self.error_type = Some(field.string()?),
            4 => self.condition = Some(field.string()?),
            _ => self.text = Some(field.string()?),
        }
        Ok(())
    }

    /// The action; `base` is the tag of its code, for the error.
    fn finish(self, base: u16) -> Result<Action, DecodeError> {
        Ok(match self.code.ok_or(DecodeError::Missing(base))? {
            0 => Action::Deliver,
            1 => Action::Replace(self.replacement.ok_or(DecodeError::Missing(base + 1))?),
            2 => Action::Drop,
            3 => Action::Bounce(Bounce {
                error_type: self.error_type.ok_or(DecodeError::Missing(base + 2))?,
                condition: self.condition.ok_or(DecodeError::Missing(base + 3))?,
                text: self.text,
            }),
            other => return Err(DecodeError::UnknownValue(base, other.into())),
        })
    }
}
