//! The journal: records on the pod's own disk, synced before anybody is told that they are there (P1, MA-6, MA-7).
//!
//! `docs/journal.md` describes the files. Invariants: an append is answered only after a sync that covers it; readers see
//! nothing unsynced; the order of a stream is the order of appending; a cursor never passes what was not confirmed. The
//! journal does not connect to anything: [`crate::drain`] does.

mod options;

pub use options::{
    AppendError, Appended, Clock, JournalError, JournalOptions, Limits, MissingRange, Position, Recovery,
    RewindReport, system_clock,
};
