//! The PostgreSQL archive of `examples/postgresql`, reached from the machine at its Service's address.

use super::Cluster;
use crate::oracle::Archive;
use crate::process::run;
use anyhow::{Context, Result};
use base64::Engine;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};

impl Cluster {
    /// A connection as superuser.
    pub async fn archive_connection(&self, namespace: &str) -> Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.service_address(namespace, "postgres")?)
            .username("postgres")
            .password(&self.secret(namespace, "postgres", "POSTGRES_PASSWORD")?)
            .ssl_mode(PgSslMode::Disable)
            .database("archive");
        Ok(PgConnection::connect_with(&options).await?)
    }

    /// Everything in the archive.
    pub async fn archive(&self, namespace: &str) -> Result<Archive> {
        Archive::read_from(&mut self.archive_connection(namespace).await?).await
    }

    /// `cartulary` as an auditor runs it, with the reader's role and the password in its environment; exit code and what it printed.
    pub fn cartulary_as_reader(
        &self,
        namespace: &str,
        command: &str,
        arguments: &[&str],
    ) -> Result<(i32, String)> {
        let address = self.service_address(namespace, "postgres")?;
        let url = format!("postgres://cartulary_reader@{address}/archive?sslmode=disable");
        let output = self
            .cartulary_command(&[command, "--archive", &url])?
            .args(arguments)
            .env("PGPASSWORD", self.secret(namespace, "postgres", "READER_PASSWORD")?)
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    }

    /// What a Secret holds under a key.
    pub fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<String> {
        let secret = self.get(namespace, &format!("secret/{name}"))?;
        let value =
            secret["data"][key].as_str().with_context(|| format!("the Secret {name} has no {key}"))?;
        Ok(String::from_utf8(base64::engine::general_purpose::STANDARD.decode(value)?)?)
    }

    /// The cluster address of a Service, which the machine reaches too.
    pub fn service_address(&self, namespace: &str, name: &str) -> Result<String> {
        let address = run(self.tool("kubectl").args([
            "-n",
            namespace,
            "get",
            &format!("service/{name}"),
            "-o",
            "jsonpath={.spec.clusterIP}",
        ]))?;
        Ok(address)
    }
}
