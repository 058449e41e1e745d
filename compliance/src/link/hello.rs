//! hello, welcome and settings: who is there, what is covered, what to do alone.

use super::event::Subject;
use super::fields::{DecodeError, Field, Fields, FieldsWriter};

/// What the plugin says of itself and of what it covers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// Lowest protocol version the plugin speaks.
    pub protocol_min: u16,
    /// Highest protocol version the plugin speaks.
    pub protocol_max: u16,
    /// Version of the plugin.
    pub plugin_version: String,
    /// The server's name, `Prosody` or `ejabberd`.
    pub server: String,
    /// The server's version.
    pub server_version: String,
    /// New at each start of the server process.
    pub instance: String,
    /// Every host of the server.
    pub hosts: Vec<ArmedHost>,
    /// What the plugin decided alone while there was no link.
    pub since_last: SinceLast,
}

/// What a host of the server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostType {
    /// A virtual host with accounts.
    Users,
    /// A room service (XEP-0045).
    Rooms,
    /// A link to an external component (XEP-0114).
    ExternalComponent,
    /// Anything else.
    #[default]
    Other,
}

/// One host of the server and whether the plugin holds its stanzas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArmedHost {
    /// The host's name.
    pub name: String,
    /// What it is for.
    pub host_type: HostType,
    /// The hooks that are armed there.
    pub hooks: Vec<String>,
    /// Why the host is not armed; `None` when it is.
    pub problem: Option<String>,
}

/// What the plugin had to decide alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinceLast {
    /// Stanzas delivered without a record.
    pub delivered_unrecorded: u64,
    /// Stanzas refused.
    pub refused: u64,
    /// Since when, microseconds since the epoch; 0 when nothing happened.
    pub since_micros: i64,
    /// Outcomes it had no room to keep.
    pub outcomes_lost: u64,
}

impl Hello {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut hello = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1 => hello.protocol_min = field.u16()?,
                2 => hello.protocol_max = field.u16()?,
                3 => hello.plugin_version = field.string()?,
                4 => hello.server = field.string()?,
                5 => hello.server_version = field.string()?,
                6 => hello.instance = field.string()?,
                7 => hello.hosts.push(ArmedHost::decode(field.nested())?),
                8 => hello.since_last = SinceLast::decode(field.nested())?,
                _ => {}
            }
        }
        if hello.protocol_min == 0 {
            return Err(DecodeError::Missing(1));
        }
        if hello.protocol_max == 0 {
            return Err(DecodeError::Missing(2));
        }
        Ok(hello)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        w.bytes(1, &self.protocol_min.to_be_bytes())
            .bytes(2, &self.protocol_max.to_be_bytes())
            .text(3, &self.plugin_version)
            .text(4, &self.server)
            .text(5, &self.server_version)
            .text(6, &self.instance);
        for host in &self.hosts {
            w.nested(7, |w| host.encode(w));
        }
        w.nested(8, |w| {
            w.bytes(1, &self.since_last.delivered_unrecorded.to_be_bytes())
                .bytes(2, &self.since_last.refused.to_be_bytes())
                .bytes(3, &self.since_last.since_micros.to_be_bytes())
                .bytes(4, &self.since_last.outcomes_lost.to_be_bytes());
        });
        w.finish()
    }
}

impl ArmedHost {
    fn decode(fields: Fields<'_>) -> Result<Self, DecodeError> {
        let mut host = Self::default();
        for field in fields {
            let field = field?;
            match field.tag {
                1 => host.name = field.string()?,
                2 => {
                    host.host_type = match field.u8()? {
                        1 => HostType::Users,
                        2 => HostType::Rooms,
                        3 => HostType::ExternalComponent,
                        4 => HostType::Other,
                        other => return Err(field.unknown(other)),
                    }
                }
                3 => host.hooks.push(field.string()?),
                4 => host.problem = Some(field.string()?),
                _ => {}
            }
        }
        if host.name.is_empty() { Err(DecodeError::Missing(1)) } else { Ok(host) }
    }

    fn encode(&self, w: &mut FieldsWriter) {
        let host_type = match self.host_type {
            HostType::Users => 1,
            HostType::Rooms => 2,
            HostType::ExternalComponent => 3,
            HostType::Other => 4,
        };
        w.text(1, &self.name).bytes(2, &[host_type]);
        for hook in &self.hooks {
            w.text(3, hook);
        }
        w.maybe(4, self.problem.as_deref());
    }
}

impl SinceLast {
    fn decode(fields: Fields<'_>) -> Result<Self, DecodeError> {
        let mut since = Self::default();
        for field in fields {
            let field = field?;
            match field.tag {
                1 => since.delivered_unrecorded = field.u64()?,
                2 => since.refused = field.u64()?,
                3 => since.since_micros = field.i64()?,
                4 => since.outcomes_lost = field.u64()?,
                _ => {}
            }
        }
        Ok(since)
    }
}

/// The sidecar's answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Welcome {
    /// The version both will speak; 0 when refused.
    pub protocol: u16,
    /// Why the link cannot be used.
    pub refused: Option<String>,
    /// Version of the sidecar.
    pub sidecar_version: String,
}

impl Welcome {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut welcome = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1 => welcome.protocol = field.u16()?,
                2 => welcome.refused = Some(field.string()?),
                3 => welcome.sidecar_version = field.string()?,
                _ => {}
            }
        }
        Ok(welcome)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        w.bytes(1, &self.protocol.to_be_bytes())
            .maybe(2, self.refused.as_deref())
            .text(3, &self.sidecar_version);
        w.finish()
    }
}

/// What happens to a stanza that gets no answer (FH-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unanswered {
    /// It is refused; its sender gets an error.
    #[default]
    Refuse,
    /// It is delivered and counted.
    Deliver,
}

/// What the plugin asks about besides messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskAbout {
    /// Which stanzas.
    pub subject: Subject,
    /// What happens to such a stanza that gets no answer.
    pub unanswered: Unanswered,
}

/// What the plugin does alone, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What happens to a stanza that gets no answer.
    pub unanswered: Unanswered,
    /// How long the plugin waits for a verdict, milliseconds.
    pub answer_timeout_ms: u32,
    /// How many events may wait at once.
    pub max_waiting: u32,
    /// Generation of the configuration.
    pub generation: i64,
    /// What is asked about besides messages; nothing else is.
    pub ask_about: Vec<AskAbout>,
}

impl Unanswered {
    fn decode(field: Field<'_>) -> Result<Self, DecodeError> {
        match field.u8()? {
            0 => Ok(Self::Refuse),
            1 => Ok(Self::Deliver),
            other => Err(field.unknown(other)),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Refuse => 0,
            Self::Deliver => 1,
        }
    }
}

impl AskAbout {
    fn decode(fields: Fields<'_>) -> Result<Self, DecodeError> {
        let (mut subject, mut unanswered) = (None, None);
        for field in fields {
            let field = field?;
            match field.tag {
                1 => subject = Some(Subject::decode(field)?),
                2 => unanswered = Some(Unanswered::decode(field)?),
                _ => {}
            }
        }
        Ok(Self {
            subject: subject.ok_or(DecodeError::Missing(1))?,
            unanswered: unanswered.ok_or(DecodeError::Missing(2))?,
        })
    }
}

impl Settings {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut unanswered, mut timeout, mut waiting, mut generation) = (None, None, None, 0);
        let mut ask_about = Vec::new();
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1 => unanswered = Some(Unanswered::decode(field)?),
                2 => timeout = Some(field.u32()?),
                3 => waiting = Some(field.u32()?),
                4 => generation = field.i64()?,
                5 => ask_about.push(AskAbout::decode(field.nested())?),
                _ => {}
            }
        }
        Ok(Self {
            unanswered: unanswered.ok_or(DecodeError::Missing(1))?,
            answer_timeout_ms: timeout.ok_or(DecodeError::Missing(2))?,
            max_waiting: waiting.ok_or(DecodeError::Missing(3))?,
            generation,
            ask_about,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        w.bytes(1, &[self.unanswered.code()])
            .bytes(2, &self.answer_timeout_ms.to_be_bytes())
            .bytes(3, &self.max_waiting.to_be_bytes())
            .bytes(4, &self.generation.to_be_bytes());
        for asked in &self.ask_about {
            w.nested(5, |w| {
                w.text(1, asked.subject.word()).bytes(2, &[asked.unanswered.code()]);
            });
        }
        w.finish()
    }
}
