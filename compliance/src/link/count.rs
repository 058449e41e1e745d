//! count: how many messages came in, as the plugin counts them where streams are read (EV-2).

use super::fields::{DecodeError, Fields, FieldsWriter};

/// Sums of one UTC day since the server's process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// The day, days since 1970-01-01.
    pub day: u32,
    /// The sums.
    pub sums: Sums,
    /// Whether nothing more comes for this day from this server process.
    pub is_final: bool,
}

/// What became of the messages that were read, in numbers of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sums {
    /// Read from clients, other servers and components.
    pub said: u64,
    /// Answered by a verdict with an event id, whatever it says.
    pub recorded: u64,
    /// Answered "deliver" without an event id: no recorded direction, or declared so.
    pub unrecorded: u64,
    /// Answered otherwise without an event id.
    pub refused: u64,
    /// No verdict: refused by the plugin.
    pub refused_alone: u64,
    /// No verdict: delivered by the plugin.
    pub delivered_alone: u64,
    /// Ended by the server before anybody was asked.
    pub ended_before: u64,
    /// Being asked about now.
    pub waiting: u64,
}

impl Sums {
    /// In the order of `docs/event-link.md`, from `said` on.
    #[must_use]
    pub fn to_array(self) -> [u64; 8] {
        let Self {
            said,
            recorded,
            unrecorded,
            refused,
            refused_alone,
            delivered_alone,
            ended_before,
            waiting,
        } = self;
        [said, recorded, unrecorded, refused, refused_alone, delivered_alone, ended_before, waiting]
    }

    /// The reverse of [`Self::to_array`].
    #[must_use]
    pub fn from_array(sums: [u64; 8]) -> Self {
        let [said, recorded, unrecorded, refused, refused_alone, delivered_alone, ended_before, waiting] =
            sums;
        Self { said, recorded, unrecorded, refused, refused_alone, delivered_alone, ended_before, waiting }
    }

    /// Messages that were read and that nobody was asked about: 0 unless something passes the plugin by. Negative when more was
    /// asked about than read.
    #[must_use]
    pub fn passed_by(self) -> i128 {
        let [said, others @ ..] = self.to_array();
        i128::from(said) - others.iter().map(|sum| i128::from(*sum)).sum::<i128>()
    }

    /// Both together: sums of two processes of the server.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut sums = self.to_array();
        for (sum, more) in sums.iter_mut().zip(other.to_array()) {
            *sum = sum.saturating_add(more);
        }
        Self::from_array(sums)
    }
}

impl Count {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut day, mut sums, mut is_final) = (None, [0; 8], false);
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1 => day = Some(field.u32()?),
                2..=9 => sums[usize::from(field.tag) - 2] = field.u64()?,
                10 => is_final = field.u8()? != 0,
                _ => {}
            }
        }
        Ok(Self { day: day.ok_or(DecodeError::Missing(1))?, sums: Sums::from_array(sums), is_final })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        w.bytes(1, &self.day.to_be_bytes());
        for (tag, sum) in (2..).zip(self.sums.to_array()) {
            w.bytes(tag, &sum.to_be_bytes());
        }
        w.bytes(10, &[u8::from(self.is_final)]);
        w.finish()
    }
}
