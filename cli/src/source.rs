//! Which archives a command reads: those given by their URLs, or those of an XMPPCluster's pods.

use crate::args::SourceArgs;
use crate::password;
use crate::pods::Pods;
use anyhow::{Context, anyhow, bail};
use cartulary_compliance::config::{PostgreSql, TlsMode};
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;

/// An archive that can be opened from here.
#[derive(Debug, PartialEq, Eq)]
pub enum Location {
    /// A file.
    Sqlite(PathBuf),
    /// A database.
    PostgreSql(PostgreSql),
}

/// What a command reads.
pub enum Source {
    /// Archives given by their URLs.
    Archives(Vec<Location>),
    /// The embedded archives of a cluster's pods.
    Pods(Box<Pods>),
}

impl Source {
    /// Finds out what `args` mean; asks for a password where one is needed.
    pub async fn of(args: &SourceArgs) -> anyhow::Result<Self> {
        if args.archive.is_empty() {
            return Ok(Self::Pods(Box::new(Pods::of(args).await?)));
        }
        let locations = args
            .archive
            .iter()
            .map(|url| Location::parse(url, |prompt| password::of(&args.password, prompt)))
            .collect::<Result<_, _>>()?;
        Ok(Self::Archives(locations))
    }
}

impl Location {
    /// Reads `sqlite:FILE` or `postgres://USER@HOST[:PORT]/DATABASE[?sslmode=…&sslrootcert=…]`.
    pub fn parse(
        url: &str,
        password: impl FnOnce(&str) -> anyhow::Result<Option<String>>,
    ) -> anyhow::Result<Self> {
        if let Some(file) = url.strip_prefix("sqlite:") {
            if file.is_empty() {
                bail!("sqlite: needs a file, as in sqlite:./archive.sqlite");
            }
            return Ok(Self::Sqlite(file.into()));
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            bail!("an archive is given as postgres://READER@HOST/DATABASE or sqlite:FILE");
        }
        postgresql(url, password).map(Self::PostgreSql)
    }
}

fn postgresql(
    url: &str,
    password: impl FnOnce(&str) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<PostgreSql> {
    // Neither the URL nor the parser's error is repeated: either may hold a password.
    let authority =
        url.split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next()).unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) || parameter(url, "password").is_some() {
        bail!(
            "a password has no place in the URL, where other users of this machine can see it: use PGPASSWORD, --password-file, or wait to be asked"
        );
    }
    let options: PgConnectOptions = url.parse().map_err(|_| {
        anyhow!("this is no PostgreSQL URL: it has the form postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full")
    })?;
    if user.is_none_or(str::is_empty) && parameter(url, "user").is_none() {
        bail!("the URL names no user: postgres://USER@HOST/DATABASE");
    }
    let database = options
        .get_database()
        .filter(|name| !name.is_empty())
        .context("the URL names no database: postgres://USER@HOST/DATABASE")?
        .to_owned();
    let socket = options.get_socket().map(|folder| folder.display().to_string());
    let tls = match parameter(url, "sslmode") {
        Some("disable") => TlsMode::Disable,
        // A socket of this machine leads to nobody else.
        None if socket.is_some() => TlsMode::Disable,
        None | Some("verify-full") => TlsMode::VerifyFull,
        Some(other) => bail!(
            "sslmode={other} does not prove whom you talk to: use verify-full (the default), or disable where the network is trusted"
        ),
    };
    let ca = match parameter(url, "sslrootcert") {
        Some(file) => {
            Some(std::fs::read_to_string(file).with_context(|| format!("cannot read sslrootcert {file}"))?)
        }
        None => None,
    };
    let username = options.get_username().to_owned();
    let host = socket.unwrap_or_else(|| options.get_host().to_owned());
    let password = password(&format!("Password of {username} at {host}: "))?.unwrap_or_default();
    Ok(PostgreSql { host, port: options.get_port(), database, username, password, tls, ca })
}

fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = url.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> anyhow::Result<Location> {
        Location::parse(url, |_| Ok(Some("secret".into())))
    }

    #[test]
    fn connections_are_verified_unless_the_url_says_otherwise() {
        for (url, tls) in [
            ("postgres://r@db/archive", TlsMode::VerifyFull),
            ("postgres://r@db/archive?sslmode=verify-full", TlsMode::VerifyFull),
            ("postgres://r@db:6432/archive?sslmode=disable", TlsMode::Disable),
            ("postgres://r@localhost/archive?host=/run/postgresql", TlsMode::Disable),
        ] {
            let Location::PostgreSql(found) = parse(url).expect(url) else { panic!("{url}") };
            assert_eq!((found.tls, found.username.as_str()), (tls, "r"), "{url}");
        }
        let error = parse("postgres://r@db/archive?sslmode=require").expect_err("not verified");
        assert!(error.to_string().contains("verify-full"), "{error}");
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        for url in
            ["postgres://r:hunter2@db/a", "postgres://r@db/a?password=hunter2", "postgres://r:hunter2@[bad/a"]
        {
            let error = format!("{:#}", parse(url).expect_err(url));
            assert!(error.contains("PGPASSWORD") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused_with_the_forms_there_are() {
        for url in [
            "",
            "mysql://x",
            "sqlite:",
            "postgres://",
            "postgres://db/a",
            "postgres://r@db",
            "archive.sqlite",
        ] {
            let error = format!("{:#}", parse(url).expect_err(url));
            assert!(error.contains("postgres://") || error.contains("sqlite:"), "{url}: {error}");
        }
    }
}
