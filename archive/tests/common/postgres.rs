//! A PostgreSQL server of our own, in a temporary folder, shared by the tests that run at the same time.

use cartulary_compliance::config::{EndpointTarget, PostgreSql, TlsMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tempfile::TempDir;

const SUPERUSER: &str = "owner";
/// The user `postgres` of the unpacked Debian.
const SERVER_USER: &str = "999:999";
pub const PASSWORD: &str = "only-for-tests";

static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server; stopped when the last test lets go of it.
pub struct Server {
    child: Child,
    pub port: u16,
    dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The running server, or a new one.
    pub fn get() -> Arc<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = running.upgrade() {
            return server;
        }
        // From a thread that stays: the kernel ends a child with the thread that started it, and tests are threads of their own.
        let (tell, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = tell.send(Self::start());
            loop {
                std::thread::park();
            }
        });
        let server = Arc::new(started.recv().expect("PostgreSQL started"));
        *running = Arc::downgrade(&server);
        server
    }

    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let home = dir.path().join("home");
        std::fs::create_dir(&home).expect("a folder");
        std::fs::write(dir.path().join("password"), PASSWORD).expect("a password file");
        let status = Command::new("chown").arg(SERVER_USER).arg(&home).status().expect("chown");
        assert!(status.success(), "the server's folder cannot be given to it: run the tests as root");
        let data = home.join("data");
        let made = as_server("initdb")
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--auth=scram-sha-256",
                "-U",
                SUPERUSER,
            ])
            .arg(format!("--pwfile={}", dir.path().join("password").display()))
            .arg("-D")
            .arg(&data)
            .output()
            .expect("initdb can be started");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let child = as_server("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-p", &port.to_string(), "-c"])
            .arg(format!("unix_socket_directories={}", home.display()))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).expect("a log"))
            .spawn()
            .expect("postgres can be started");
        let mut server = Self { child, port, dir };
        server.wait();
        server
    }

    fn wait(&mut self) {
        for _ in 0..600 {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if log.contains("ready to accept connections") {
                return;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("postgres ended with {status}: {log}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("postgres does not answer after a minute");
    }

    /// A new, empty database with roles of its own: `<name>_writer` and `<name>_reader`.
    pub async fn database(self: &Arc<Self>) -> Database {
        let name = format!("archive{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.superuser("postgres").await;
        // Left over only if a server outlived the tests that used these names.
        for sql in [
            format!("CREATE DATABASE {name}"),
            format!("CREATE ROLE {name}_writer LOGIN PASSWORD '{PASSWORD}'"),
            format!("CREATE ROLE {name}_reader LOGIN PASSWORD '{PASSWORD}'"),
        ] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("a new database");
        }
        Database { server: Arc::clone(self), name }
    }

    async fn superuser(&self, database: &str) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(SUPERUSER)
            .password(PASSWORD)
            .ssl_mode(PgSslMode::Disable)
            .database(database);
        PgConnection::connect_with(&options).await.expect("the superuser connects")
    }
}

/// One database.
pub struct Database {
    server: Arc<Server>,
    pub name: String,
}

impl Database {
    pub fn config(&self, username: &str) -> PostgreSql {
        PostgreSql {
            host: "127.0.0.1".to_owned(),
            port: self.server.port,
            database: self.name.clone(),
            username: username.to_owned(),
            password: PASSWORD.to_owned(),
            tls: TlsMode::Disable,
            ca: None,
        }
    }

    pub fn target(&self, config: PostgreSql) -> cartulary_archive::endpoint::Target {
        cartulary_archive::endpoint::Target::from_config(
            &EndpointTarget::PostgreSql(config),
            Path::new("/unused"),
        )
    }

    pub fn owner(&self) -> cartulary_archive::endpoint::Target {
        self.target(self.config(SUPERUSER))
    }

    pub fn writer(&self) -> String {
        format!("{}_writer", self.name)
    }

    pub fn reader(&self) -> String {
        format!("{}_reader", self.name)
    }

    /// Runs SQL as the superuser.
    pub async fn superuser(&self, sql: &str) {
        let mut connection = self.server.superuser(&self.name).await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await
            .expect("the superuser may");
    }
}

/// A program of the unpacked Debian that `tests/cluster/setup` makes, as the user there that may run PostgreSQL.
fn as_server(program: &str) -> Command {
    let in_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cluster/in-root");
    let mut command = Command::new(in_root);
    // The kernel ends the server with a test that is killed; from inside, because entering the root clears the signal.
    command
        .args(["-u", "postgres", "postgres15", "setpriv", "--pdeathsig", "KILL", program])
        .current_dir("/tmp");
    command
}
