//! What can be wrong with an endpoint, in terms of what to do about it.

use cartulary_compliance::names::reason;
use sqlx::postgres::PgDatabaseError;

/// Why an endpoint did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It does not answer, or not now. Trying again may help.
    #[error("{message}")]
    Unavailable {
        /// Out of [`reason`].
        reason: &'static str,
        /// What is the matter.
        message: String,
    },
    /// Somebody has to change something first.
    #[error("{message}")]
    Misconfigured {
        /// Out of [`reason`].
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// It refuses what it was given because of what is in it.
    #[error("{message}")]
    Rejected {
        /// What it said.
        message: String,
    },
}

impl EndpointError {
    /// The reason's name, for status and conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { reason, .. } | Self::Misconfigured { reason, .. } => reason,
            Self::Rejected { .. } => reason::REJECTED,
        }
    }

    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason::UNREACHABLE, message: message.into() }
    }

    pub(super) fn misconfigured(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Misconfigured { reason, message: message.into() }
    }
}

/// Classes of PostgreSQL's error codes with which it refuses what it was given, or a trigger does: data, constraint, view with check
/// option, limit, function, RAISE. `docs/journal.md` has the table.
const REFUSED: [&str; 6] = ["22", "23", "38", "44", "54", "P0"];

/// What an error of the database means. Messages name what to do; the database's own words follow, except where it speaks of what
/// it was given: those may quote it, and messages end in logs and statuses (P8).
pub fn classify(place: &str, error: &sqlx::Error) -> EndpointError {
    match error {
        sqlx::Error::Tls(inner) => EndpointError::misconfigured(
            reason::TLS_FAILED,
            format!("TLS with {place} failed, check its certificate and the configured authority: {inner}"),
        ),
        sqlx::Error::Io(inner) if is_tls(inner) => EndpointError::misconfigured(
            reason::TLS_FAILED,
            format!("TLS with {place} failed, check its certificate and the configured authority: {inner}"),
        ),
        sqlx::Error::Database(inner) => match inner.try_downcast_ref::<PgDatabaseError>() {
            Some(inner) => postgres(place, inner),
            None => sqlite(place, inner.code().as_deref().unwrap_or(""), inner.message()),
        },
        sqlx::Error::Encode(inner) => EndpointError::Rejected { message: inner.to_string() },
        other => EndpointError::unreachable(format!("{place} cannot be reached: {other}")),
    }
}

// rustls reports through I/O errors once the handshake has begun.
fn is_tls(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
}

fn postgres(place: &str, error: &PgDatabaseError) -> EndpointError {
    let (code, message) = (error.code(), error.message());
    let (reason, advice) = match code {
        "28P01" | "28000" => (reason::AUTHENTICATION_FAILED, "refuses the user name or password"),
        "3D000" => (reason::DATABASE_MISSING, "has no such database: create it, then run cartulary migrate"),
        "42501" => (reason::PERMISSION_DENIED, "does not permit it: run cartulary migrate naming this role"),
        "42P01" | "3F000" => (reason::NOT_MIGRATED, "holds no archive: run cartulary migrate"),
        "42703" | "42883" => {
            (reason::UNKNOWN_SCHEMA, "holds an archive of another shape: run cartulary migrate")
        }
        // A check violation of no constraint: rows that no partition takes. Nothing is wrong with them.
        "23514" if error.constraint().is_none() => {
            (reason::NOT_MIGRATED, "has no partition for these records: run cartulary migrate")
        }
        _ if REFUSED.iter().any(|class| code.starts_with(class)) => {
            return EndpointError::Rejected { message: refusal(error) };
        }
        // Of a function or trigger that cannot be called; its words may quote the record.
        _ if ["39"].iter().any(|class| code.starts_with(class)) => {
            return EndpointError::unreachable(format!("{place} cannot do it now: {}", refusal(error)));
        }
        _ => return EndpointError::unreachable(format!("{place} cannot do it now: {message} ({code})")),
    };
    EndpointError::misconfigured(reason, format!("{place} {advice}: {message}"))
}

/// What was refused, without the database's own words: its log has them.
fn refusal(error: &PgDatabaseError) -> String {
    let places = [("constraint", error.constraint()), ("column", error.column()), ("table", error.table())];
    let places = places.iter().filter_map(|(what, name)| Some(format!(", {what} {}", (*name)?)));
    format!("the database's error {}{}: see its log", error.code(), places.collect::<String>())
}

fn sqlite(place: &str, code: &str, message: &str) -> EndpointError {
    if message.starts_with("no such table") {
        return EndpointError::misconfigured(
            reason::NOT_MIGRATED,
            format!("{place} holds no archive: {message}"),
        );
    }
    if message.starts_with("no such column") {
        return EndpointError::misconfigured(
            reason::UNKNOWN_SCHEMA,
            format!("{place} holds an archive of another shape: {message}"),
        );
    }
    // Extended result codes hold the primary one in their low byte: https://sqlite.org/rescode.html
    match code.parse::<u32>().unwrap_or(0) & 0xff {
        18..=20 => EndpointError::Rejected { message: format!("{message} ({code})") },
        3 | 8 => EndpointError::misconfigured(
            reason::PERMISSION_DENIED,
            format!("{place} may not be written: {message} ({code})"),
        ),
        _ => EndpointError::unreachable(format!("{place} cannot do it now: {message} ({code})")),
    }
}
