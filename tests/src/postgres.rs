//! A PostgreSQL of one's own: 15, in its own folder, on a Unix socket there and on a port of 127.0.0.1.
//!
//! The empty cluster is made once per cache and copied, because `initdb` takes longer than most tests.

use crate::process::{Process, User, cache, free_port, in_root, run};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::net::TcpStream;

const POSTGRES: User = "999:999";
/// The superuser, who is also the archive's owner unless a test makes another.
pub const SUPERUSER: &str = "postgres";
/// Every role's password in tests.
pub const PASSWORD: &str = "correct horse battery staple";
// In tests power never fails, kill -9 keeps the page cache, and the disk is shared by everything that runs; the benchmark turns
// this on again.
const SETTINGS: &str = "\
unix_socket_permissions = 0777
max_connections = 40
shared_buffers = 32MB
fsync = off
synchronous_commit = on
wal_level = minimal
max_wal_senders = 0
autovacuum_naptime = 1h
log_min_messages = warning
";

/// A PostgreSQL server, running or not.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Postgres {
    /// Makes a cluster under `dir` (which is created) and starts it.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "").await
    }

    /// The same with further lines of `postgresql.conf`.
    pub async fn start_with(dir: &Path, settings: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        copy(&template()?, &dir.join("data"))?;
        fs::write(dir.join("data/postgresql.conf"), format!("{SETTINGS}{settings}"))?;
        run(Command::new("chown").args(["-R", POSTGRES]).arg(dir))?;
        let mut postgres = Self { dir: dir.to_owned(), port: free_port()?, process: None };
        postgres.resume().await?;
        Ok(postgres)
    }

    /// Starts it again after it was stopped or killed, on the same port.
    pub async fn resume(&mut self) -> Result<()> {
        // After kill -9 the old shared memory may take a moment to go; PostgreSQL then refuses to start.
        for _ in 0..20 {
            let mut command = in_root("postgres15", POSTGRES, "postgres");
            command.arg("-D").arg(self.dir.join("data")).arg("-k").arg(&self.dir);
            command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
            let mut process = Process::start("PostgreSQL", &mut command, &self.log())?;
            let outcome =
                process.until("PostgreSQL answers", async || self.connect("postgres").await.is_ok()).await;
            match outcome {
                Ok(()) => {
                    self.process = Some(process);
                    return Ok(());
                }
                Err(e)
                    if process.tail().ends_with("is still in use\n")
                        || format!("{e:#}").contains("still in use") => {}
                Err(e) => return Err(e),
            }
        }
        bail!("PostgreSQL does not come back: {}", fs::read_to_string(self.log()).unwrap_or_default())
    }

    /// Stops it as an administrator in a hurry would: connections are cut, nothing is lost.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::INT)?;
            process.wait().await?;
        }
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Whether it was started and not stopped since.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Keeps a copy of everything in it, as of now. It is stopped meanwhile.
    pub async fn back_up(&mut self, name: &str) -> Result<()> {
        self.stop().await?;
        copy(&self.dir.join("data"), &self.dir.join(name))?;
        self.resume().await
    }

    /// Puts a copy back in place of what is there.
    pub async fn restore(&mut self, name: &str) -> Result<()> {
        self.stop().await?;
        fs::remove_dir_all(self.dir.join("data"))?;
        copy(&self.dir.join(name), &self.dir.join("data"))?;
        self.resume().await
    }

    /// The folder of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects as superuser to a database.
    pub async fn connect(&self, database: &str) -> Result<PgConnection> {
        self.connect_as(SUPERUSER, database).await
    }

    /// Connects as some role.
    pub async fn connect_as(&self, role: &str, database: &str) -> Result<PgConnection> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        // Cheaper than what sqlx does with a refused connection.
        TcpStream::connect(address).await?;
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(role)
            .password(PASSWORD)
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
            .database(database);
        Ok(PgConnection::connect_with(&options).await?)
    }

    /// Runs statements as superuser.
    pub async fn sql(&self, database: &str, statements: &str) -> Result<()> {
        let mut connection = self.connect(database).await?;
        connection.execute(sqlx::AssertSqlSafe(statements)).await.with_context(|| statements.to_owned())?;
        Ok(connection.close().await?)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to)).map(|_| ())
}

// An empty cluster, made by whoever comes first.
fn template() -> Result<PathBuf> {
    let template = cache().join("postgres-template-1");
    if template.is_dir() {
        return Ok(template);
    }
    fs::create_dir_all(cache())?;
    let lock = File::create(cache().join("postgres-template.lock"))?;
    lock.lock()?;
    if template.is_dir() {
        return Ok(template);
    }
    // Made under /tmp, where PostgreSQL's user may go, unlike into somebody's home.
    let made = tempfile::Builder::new().prefix("cartulary-initdb-").tempdir()?;
    let (data, password) = (made.path().join("data"), made.path().join("password"));
    fs::create_dir(&data)?;
    fs::write(&password, PASSWORD)?;
    run(Command::new("chown").args(["-R", POSTGRES]).arg(made.path()))?;
    let mut initdb = in_root("postgres15", POSTGRES, "initdb");
    initdb.arg("-D").arg(&data).args(["-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
    initdb.args(["--no-sync", "--no-instructions", "--wal-segsize=1"]).arg("--pwfile").arg(&password);
    run(&mut initdb)?;
    let half = cache().join("postgres-template.new");
    let _ = fs::remove_dir_all(&half);
    copy(&data, &half)?;
    fs::rename(half, &template)?;
    Ok(template)
}
