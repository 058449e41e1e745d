//! What happens to an event when the server for it is away, silent or wrong (FH-1 to FH-6): one table.

use serde::{Deserialize, Serialize};

/// How a node sees a compliance server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Events go to it.
    InService,
    /// It failed a short while ago, or was never reached yet: events queue for it (FH-2).
    Queueing,
    /// It shut down in order, or has been away for longer than declared: others have its share (FH-1, FH-3).
    Out,
}
