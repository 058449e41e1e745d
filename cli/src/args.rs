//! The command line's grammar. What help says is said here and nowhere else.

use crate::{conformance::Stream, output::Format, time};
use clap::{Parser, Subcommand};
use jid::Jid;
use jiff::Timestamp;
use std::path::PathBuf;

/// Compliance records of XMPP servers on Kubernetes: look after them, find what was said, prove that it is unchanged.
#[derive(Parser)]
#[command(name = "cartulary", version, subcommand_required = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 all is well, 1 something wrong was found, 2 asked wrongly or could not look."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Show what is recorded where, node by node, and what is wrong
    Status(StatusArgs),
    /// Go through everything that compliance servers, archives and coverage depend on, and say what to look at next
    Troubleshoot(StatusArgs),
    /// Find recorded messages; the newest comes last
    Search(SearchArgs),
    /// Check that the archive holds what was written, unchanged and without holes
    Verify(VerifyArgs),
    /// Count what was said, recorded and archived, node by node and day by day
    Report(ReportArgs),
    /// Copy an archive into one SQLite file, as evidence to be kept or verified elsewhere
    Export(ExportArgs),
    /// Print the anchors of XMPPClusters: what their journals signed, kept by the operator outside the archives
    Anchors(AnchorsArgs),
    /// Make or update the tables of a PostgreSQL archive, and the rights of its two roles
    Migrate(MigrateArgs),
    /// List or retry records that an archive refused
    DeadLetters(DeadLettersArgs),
    /// Check whether a compliance server answers as the event protocol has it
    Conformance(ConformanceArgs),
}

/// Which Kubernetes cluster, with which rights.
#[derive(clap::Args, Clone, Debug)]
pub struct KubeArgs {
    /// Namespace; the kubeconfig's current one by default
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; the current one by default
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
}

/// Which archive.
#[derive(clap::Args, Clone, Debug)]
pub struct SourceArgs {
    /// An archive itself: postgres://reader@host/database?sslmode=verify-full, or sqlite:FILE. The password comes from PGPASSWORD,
    /// --password-file or a prompt, never from here. May be given several times
    #[arg(long, value_name = "URL", conflicts_with_all = ["cluster", "namespace", "context"])]
    pub archive: Vec<String>,
    /// The archive of this XMPPCluster; may be left out when the namespace has only one
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    #[command(flatten)]
    pub kube: KubeArgs,
    #[command(flatten)]
    pub password: PasswordArgs,
}

/// Where a database password comes from.
#[derive(clap::Args, Clone, Debug)]
pub struct PasswordArgs {
    /// File that holds the database password (a line end after it does not count)
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// `status` and `troubleshoot`, which reads the same.
#[derive(clap::Args)]
pub struct StatusArgs {
    /// Only this XMPPCluster
    #[arg(value_name = "CLUSTER")]
    pub cluster: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// `search`.
#[derive(clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub terms: SearchTerms,
    /// Form of the answer; json is one object on a line for each message
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// What is looked for: every term given must hold.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SearchTerms {
    /// Said by or to this person (bare JID)
    #[arg(long, value_name = "JID", value_parser = bare_jid)]
    pub person: Option<String>,
    /// Only the conversation of --person with this one
    #[arg(long, value_name = "JID", requires = "person", value_parser = bare_jid)]
    pub with: Option<String>,
    /// Said in this room
    #[arg(long, value_name = "JID", value_parser = bare_jid)]
    pub room: Option<String>,
    /// Not before: 2026-03-01T09:30:00Z, 2026-03-01, or an age such as 30m, 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    pub since: Option<Timestamp>,
    /// Before
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    pub until: Option<Timestamp>,
    /// Body, subject or XHTML contains this text (large and small letters alike)
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// Stop after this many messages
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

/// A JID as archives hold it: normalised, without resource.
fn bare_jid(text: &str) -> Result<String, String> {
    let jid = text
        .parse::<Jid>()
        .map_err(|error| format!("'{text}' is no JID, such as ada@chat.example: {error}"))?;
    Ok(jid.to_bare().to_string())
}

/// `verify`.
#[derive(clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub anchors: AnchorSource,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Where anchors come from.
#[derive(clap::Args, Clone, Debug)]
pub struct AnchorSource {
    /// File of anchors, as cartulary anchors prints it (- for standard input); may be given several times, the first one that knows a
    /// journal says which key is believed. With an XMPPCluster and without files they are read from the operator's namespace
    #[arg(long, value_name = "FILE")]
    pub anchors: Vec<PathBuf>,
    #[command(flatten)]
    pub system: SystemArgs,
}

/// Where the operator is.
#[derive(clap::Args, Clone, Debug)]
pub struct SystemArgs {
    /// The operator's namespace, where it keeps anchors
    #[arg(long, value_name = "NAMESPACE", default_value = "cartulary-system")]
    pub system_namespace: String,
}

/// `anchors`.
#[derive(clap::Args)]
pub struct AnchorsArgs {
    /// Only this XMPPCluster; it need not exist any more
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    #[command(flatten)]
    pub kube: KubeArgs,
    #[command(flatten)]
    pub system: SystemArgs,
}

/// `export`.
#[derive(clap::Args)]
pub struct ExportArgs {
    /// The archive: postgres://reader@host/database?sslmode=verify-full, or sqlite:FILE
    #[arg(long, value_name = "URL")]
    pub archive: String,
    /// The file to make; it must not exist
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    #[command(flatten)]
    pub password: PasswordArgs,
}

/// `report`.
#[derive(clap::Args)]
pub struct ReportArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// From this day on (UTC): 2026-03-01, or an age such as 7d
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    pub since: Option<Timestamp>,
    /// Up to the day of this moment
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    pub until: Option<Timestamp>,
    #[command(flatten)]
    pub anchors: AnchorSource,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// `migrate`.
#[derive(clap::Args)]
pub struct MigrateArgs {
    /// The database as its owner: postgres://owner@host/database?sslmode=verify-full
    #[arg(long, value_name = "URL")]
    pub archive: String,
    /// Role the sidecars write as; it must exist
    #[arg(long, value_name = "ROLE")]
    pub writer: String,
    /// Role that searches and verifies; it must exist
    #[arg(long, value_name = "ROLE")]
    pub reader: Option<String>,
    #[command(flatten)]
    pub password: PasswordArgs,
}

/// `dead-letters`.
#[derive(clap::Args)]
pub struct DeadLettersArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub action: DeadLettersAction,
}

/// What to do with dead letters.
#[derive(Subcommand)]
pub enum DeadLettersAction {
    /// Show them: which, when and why; never their text
    List(DeadLettersTarget),
    /// Offer them to their archive again
    Retry(DeadLettersTarget),
}

/// Whose dead letters.
#[derive(clap::Args)]
pub struct DeadLettersTarget {
    /// Only this XMPPCluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// `conformance`.
#[derive(clap::Args)]
#[command(
    long_about = "Plays the sidecar's part of the event protocol (docs/event-protocol.md) against a compliance server, and says \
    of each event whether its answer is one: OK, FAILED and why, or NOTE. What the server decides is not judged. It is asked about \
    invented people in the domain chat.example, so let a server that keeps records know that this is a test.\n\n\
    Checked are: the handshake; that a wrong password and a wrong name are refused apart; pings; every event with an example of its stanza, \
    asked or told; unknown attributes; an event of another version; a long stanza; a thousand open questions; a question that is asked \
    again after a loss; that nothing is answered twice; and the end of the stream. How a server ends by itself cannot be tried from here."
)]
pub struct ConformanceArgs {
    /// The server
    #[arg(value_name = "HOST:PORT")]
    pub address: String,
    /// Component name to use; the server has to know it
    #[arg(long, value_name = "NAME", default_value = "op-conformance.pod-0")]
    pub component: String,
    /// File that holds the password (a line end after it does not count); otherwise it is taken from COMPLIANCE_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Over TLS; that is so unless --plain is given
    #[arg(long)]
    pub tls: bool,
    /// Over plain TCP
    #[arg(long, conflicts_with_all = ["tls", "ca", "server_name", "client_cert", "client_key"])]
    pub plain: bool,
    /// PEM of the authorities that may have signed the server's certificate; the system's otherwise
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Name that the certificate must have; the host otherwise
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// PEM of a certificate chain to show to the server
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// PEM of its key
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Namespace of the stream
    #[arg(long, value_enum, default_value_t = Stream::Accept)]
    pub stream: Stream,
    /// Only this event; may be given several times
    #[arg(long, value_name = "EVENT")]
    pub event: Vec<String>,
    /// How long each answer is awaited
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u32,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn people_are_found_however_their_name_is_spelled() {
        assert_eq!(bare_jid("Ada@Chat.Example/desk").as_deref(), Ok("ada@chat.example"));
        assert!(bare_jid("@").expect_err("no JID").contains("ada@chat.example"));
    }
}
