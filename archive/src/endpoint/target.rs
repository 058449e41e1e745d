//! Where an archive is.

use cartulary_compliance::config::{EndpointTarget, PostgreSql, TlsMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::path::{Path, PathBuf};

/// Where an archive is and how it is reached.
#[derive(Clone)]
pub enum Target {
    /// A PostgreSQL database.
    Postgres(Box<PgConnectOptions>),
    /// A SQLite file.
    Sqlite(PathBuf),
}

impl Target {
    /// The target of a configuration; `file` is where a SQLite archive lies.
    #[must_use]
    pub fn from_config(target: &EndpointTarget, file: &Path) -> Self {
        match target {
            EndpointTarget::PostgreSql(postgres) => Self::Postgres(Box::new(options(postgres))),
            EndpointTarget::Sqlite => Self::Sqlite(file.to_owned()),
        }
    }

    /// Where it is, for people. Without password.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Postgres(options) => {
                let database = options.get_database().unwrap_or("(default)");
                match options.get_socket() {
                    Some(socket) => format!("PostgreSQL {}/{database}", socket.display()),
                    None => format!("PostgreSQL {}:{}/{database}", options.get_host(), options.get_port()),
                }
            }
            Self::Sqlite(path) => format!("SQLite {}", path.display()),
        }
    }
}

fn options(postgres: &PostgreSql) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .port(postgres.port)
        .database(&postgres.database)
        .username(&postgres.username)
        .password(&postgres.password)
        .application_name("cartulary");
    if postgres.host.starts_with('/') {
        return options.socket(&postgres.host).ssl_mode(PgSslMode::Disable);
    }
    let options = options.host(&postgres.host).ssl_mode(match postgres.tls {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    });
    match &postgres.ca {
        Some(ca) => options.ssl_root_cert_from_pem(ca.clone().into_bytes()),
        None => options,
    }
}
