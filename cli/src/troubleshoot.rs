//! `cartulary troubleshoot`: everything a cluster depends on, green or red, and for each red line what to look at next (CS-3).
//!
//! It reads what `cartulary status` reads and decides here what that means; it changes nothing. What cannot be read is red.

use crate::Found;
use crate::args::StatusArgs;
use crate::output::{self, Format};
use crate::status::{self, ClusterReport};
use cartulary_compliance::names::{condition, reason};
use cartulary_compliance::status::{ComplianceServerStatus, LinkCause, LinkState, SidecarStatus};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Of what may wait for a server, so much is too much.
const HIGH_WATER_PERCENT: u64 = 80;

/// One XMPPCluster.
#[derive(Serialize, Debug)]
struct Overview {
    namespace: String,
    name: String,
    green: bool,
    lines: Vec<Line>,
}

/// One thing that is as it should be, or not.
#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Line {
    /// The pod it is about; `None` for the XMPPCluster.
    pod: Option<String>,
    about: String,
    green: bool,
    detail: String,
    /// What to look at next; `None` where it is green.
    next: Option<String>,
    /// Of a compliance server.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerLine>,
}

/// How far a compliance server's link is, step by step.
#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
struct ServerLine {
    name: String,
    address: String,
    component: String,
    cause: Option<LinkCause>,
    connection: bool,
    authentication: bool,
    answering: bool,
    pending: u64,
    undecided: u64,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> anyhow::Result<Found> {
    let (_, reports) = status::collect(&args).await?;
    let overviews: Vec<Overview> = reports.iter().map(overview).collect();
    let mut out = output::stdout();
    if args.output == Format::Json {
        output::json_line(&mut out, &overviews)?;
    } else {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if overviews.is_empty() {
            writeln!(out, "There is no XMPPCluster here: give a namespace with -n, or all with -A.")?;
        }
        for overview in &overviews {
            show(&mut out, overview, colours)?;
        }
    }
    out.flush()?;
    Ok(if overviews.iter().all(|overview| overview.green) { Found::Fine } else { Found::Wrong })
}

fn show(out: &mut impl Write, overview: &Overview, colours: bool) -> io::Result<()> {
    let red = overview.lines.iter().filter(|line| !line.green).count();
    let verdict =
        if red == 0 { "all green".to_owned() } else { format!("{red} of {} red", overview.lines.len()) };
    writeln!(out, "XMPPCluster {}/{}: {verdict}", overview.namespace, overview.name)?;
    for line in &overview.lines {
        let word = match (line.green, colours) {
            (true, true) => "\u{1b}[32mgreen\u{1b}[0m",
            (false, true) => "\u{1b}[31mRED\u{1b}[0m  ",
            (true, false) => "green",
            (false, false) => "RED  ",
        };
        let pod = line.pod.as_ref().map(|pod| format!("pod {pod}, ")).unwrap_or_default();
        writeln!(out, "  {word} {pod}{}: {}", line.about, output::printable(&line.detail))?;
        if let Some(next) = &line.next {
            writeln!(out, "        next: {}", output::printable(next))?;
        }
    }
    Ok(())
}

fn overview(report: &ClusterReport) -> Overview {
    let mut lines = vec![declaration(report)];
    if report.pods.is_empty() {
        lines.push(line(
            None,
            "pods",
            Err((
                "there are none".into(),
                "give the server's pod template the label cartulary.dev/cluster".into(),
            )),
        ));
    }
    for pod in &report.pods {
        match &pod.status {
            Some(status) => of_node(&pod.name, status, &mut lines),
            None => {
                let problem = pod.problem.clone().unwrap_or_else(|| "nothing is known of it".into());
                let next = format!(
                    "kubectl describe pod {}, and the log of its container cartulary-sidecar",
                    pod.name
                );
                lines.push(line(Some(&pod.name), "sidecar", Err((problem, next))));
            }
        }
    }
    lines.extend(report.compliance_servers.iter().filter_map(|server| unknown_everywhere(report, server)));
    let green = lines.iter().all(|line| line.green);
    Overview { namespace: report.namespace.clone(), name: report.name.clone(), green, lines }
}

fn line(pod: Option<&str>, about: impl Into<String>, found: Result<String, (String, String)>) -> Line {
    let green = found.is_ok();
    let (detail, next) = match found {
        Ok(detail) => (detail, None),
        Err((detail, next)) => (detail, Some(next)),
    };
    Line { pod: pod.map(str::to_owned), about: about.into(), green, detail, next, server: None }
}

/// Whether the operator has taken what is declared.
fn declaration(report: &ClusterReport) -> Line {
    let accepted = report.conditions.iter().find(|c| c.kind == condition::ACCEPTED);
    line(
        None,
        "declaration",
        match accepted {
            Some(c) if c.status == "True" && !report.is_old(c) => Ok("accepted".into()),
            Some(c) if report.is_old(c) => Err((
                "the operator has not looked at the newest one".into(),
                "the operator's log: does it run, and does it lead?".into(),
            )),
            Some(c) => Err((format!("{}: {}", c.reason, c.message), "change what the message names".into())),
            None => Err((
                "the operator has said nothing about it".into(),
                "does the operator run? Its log says what keeps it".into(),
            )),
        },
    )
}

/// A server that is declared and that no node has heard of.
fn unknown_everywhere(report: &ClusterReport, server: &str) -> Option<Line> {
    let mut statuses = report.pods.iter().filter_map(|pod| pod.status.as_ref()).peekable();
    // Where no node answers, that is said already.
    statuses.peek()?;
    if statuses.any(|status| status.compliance_servers.contains_key(server)) {
        return None;
    }
    let next = "the settings: whether compliance is enabled, the profile contains events, and the conditions of the XMPPCluster and the \
                ComplianceServer; whether every pod runs the newest configuration";
    Some(line(
        None,
        format!("compliance server {server}"),
        Err(("it is assigned, and no pod knows it".into(), next.into())),
    ))
}

fn of_node(pod: &str, status: &SidecarStatus, lines: &mut Vec<Line>) {
    let configuration = match &status.config.problem {
        None if status.config.generation > 0 => Ok(format!("generation {}", status.config.generation)),
        None => Err(("it has none yet".into(), "the operator's log; whether the Secret is mounted".into())),
        Some(problem) => Err((problem.clone(), "operator and sidecar must be of one version".into())),
    };
    lines.push(line(Some(pod), "configuration", configuration));
    lines.push(line(Some(pod), "coverage", coverage(status)));
    for (name, endpoint) in &status.endpoints {
        let found = format!(
            "{}, {} waiting, {} dead letters",
            endpoint.state, endpoint.waiting, endpoint.dead_letters
        );
        let found = match (endpoint.state == reason::CONNECTED, endpoint.dead_letters) {
            (true, 0) => Ok(found),
            (true, _) => Err((found, "cartulary dead-letters list says why they were refused".into())),
            (false, _) => Err((found, endpoint.message.clone())),
        };
        lines.push(line(Some(pod), format!("archive endpoint {name}"), found));
    }
    lines.extend(status.compliance_servers.iter().map(|(name, server)| of_server(pod, name, server)));
}

fn coverage(status: &SidecarStatus) -> Result<String, (String, String)> {
    let link = &status.link;
    if !link.connected {
        return Err((
            "the server's plugin is not connected".into(),
            "the XMPP server's log: did our plugin load?".into(),
        ));
    }
    let bare: Vec<&str> =
        link.hosts.iter().filter(|host| host.problem.is_some()).map(|host| host.name.as_str()).collect();
    if bare.is_empty() {
        return Ok(format!("{}, {} hosts", link.server, link.hosts.len()));
    }
    Err((format!("not covered: {}", bare.join(", ")), "cartulary status says why for each host".into()))
}

/// One compliance server as one node sees it.
fn of_server(pod: &str, name: &str, server: &ComplianceServerStatus) -> Line {
    let counts = &server.counts;
    let undecided = counts.timed_out.saturating_add(counts.overflowed).saturating_add(counts.malformed);
    let steps = ServerLine {
        name: name.to_owned(),
        address: server.address.clone(),
        component: server.component.clone(),
        cause: server.cause.filter(|_| !server.in_service),
        connection: server.state != LinkState::Gone,
        authentication: server.state == LinkState::Active,
        answering: server.in_service,
        pending: server.pending,
        undecided,
    };
    let word = |good: bool| if good { "yes" } else { "NO" };
    let state = match server.state {
        LinkState::Gone => "GONE",
        LinkState::Connected => "CONNECTED",
        LinkState::Active => "ACTIVE",
    };
    let mut detail = format!(
        "{state} at {}: connected {}, authenticated {}, answering {}; {} pending, {undecided} undecided since the start",
        server.address,
        word(steps.connection),
        word(steps.authentication),
        word(steps.answering),
        server.pending
    );
    if server.queueing {
        detail.push_str("; events queue for it");
    }
    if !server.in_service && !server.message.is_empty() {
        detail = format!("{detail}; {}", server.message);
    }
    let found = match next_for(server) {
        None => Ok(detail),
        Some(next) => Err((detail, next)),
    };
    Line { server: Some(steps), ..line(Some(pod), format!("compliance server {name}"), found) }
}

/// What to look at next; `None` where nothing is wrong.
fn next_for(server: &ComplianceServerStatus) -> Option<String> {
    if server.in_service {
        let full = server.max_pending > 0
            && server.pending.saturating_mul(100) >= server.max_pending.saturating_mul(HIGH_WATER_PERCENT);
        let slow = "it is too slow: its log and load; another server with the same profile shares the work";
        return full.then(|| slow.to_owned());
    }
    let (address, component) = (&server.address, &server.component);
    let active = "it is ACTIVE and does not answer: the server's own log, what holds it up, and cartulary conformance against it";
    let cause = match server.cause {
        // Whatever ended it the last time: this is how it stands now.
        _ if server.state == LinkState::Active => return Some(active.into()),
        None => LinkCause::NotTried,
        Some(cause) => cause,
    };
    Some(match cause {
        LinkCause::NotTried | LinkCause::Reconfigured => "it is being tried; look again in a minute, then at the sidecar's log".into(),
        LinkCause::UnknownHost => format!("the name in {address}: is it spelled as the server's Service or DNS has it?"),
        LinkCause::Refused => format!("nothing listens at {address}: host and port in the ComplianceServer, and whether the server runs and listens there (not on 127.0.0.1 alone)"),
        LinkCause::TimedOut => format!("nothing comes back from {address}: the address, NetworkPolicies and firewalls between pod and server"),
        LinkCause::Tls => "TLS: the authority in tls.caSecret, the certificate's name and dates, and whether the server speaks TLS on this port".into(),
        LinkCause::WrongPassword => format!("CONNECTED and not ACTIVE: the password in the Secret against the server's for the component {component}"),
        LinkCause::WrongName => format!("CONNECTED and not ACTIVE: configure the component name {component} in the server"),
        LinkCause::Protocol => format!("what answers at {address} speaks something else: the port, and cartulary conformance against it"),
        LinkCause::Closed => "the server has shut down in order: start it again".into(),
        LinkCause::Lost => "the connection broke: the server's log at that time, and the network between".into(),
        LinkCause::NotAnswering => active.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(state: LinkState, in_service: bool, cause: Option<LinkCause>) -> ComplianceServerStatus {
        ComplianceServerStatus {
            address: "wall.chat:5347".into(),
            component: "op-wall.prosody-0".into(),
            state,
            in_service,
            cause,
            max_pending: 100,
            ..Default::default()
        }
    }

    #[test]
    fn cs_3_every_way_a_link_can_fail_names_the_next_thing_to_look_at() {
        let table = [
            (LinkState::Gone, LinkCause::Refused, "nothing listens at wall.chat:5347"),
            (LinkState::Gone, LinkCause::UnknownHost, "spelled"),
            (LinkState::Gone, LinkCause::TimedOut, "NetworkPolicies"),
            (LinkState::Gone, LinkCause::Tls, "certificate"),
            (LinkState::Connected, LinkCause::WrongPassword, "the password in the Secret"),
            (LinkState::Connected, LinkCause::WrongName, "configure the component name op-wall.prosody-0"),
            (LinkState::Gone, LinkCause::WrongName, "configure the component name op-wall.prosody-0"),
            (LinkState::Gone, LinkCause::Protocol, "cartulary conformance"),
            (LinkState::Gone, LinkCause::Closed, "start it again"),
            (LinkState::Gone, LinkCause::Lost, "the connection broke"),
            (LinkState::Active, LinkCause::NotAnswering, "the server's own log"),
            (LinkState::Gone, LinkCause::NotTried, "look again"),
        ];
        for (state, cause, expected) in table {
            let line = of_server("prosody-0", "wall", &server(state, false, Some(cause)));
            let next = line.next.unwrap_or_default();
            assert!(!line.green && next.contains(expected), "{cause:?}: {next}");
            let steps = line.server.expect("a server");
            assert_eq!(steps.connection, state != LinkState::Gone);
            assert_eq!(steps.authentication, state == LinkState::Active);
            assert!(!steps.answering);
        }
        let fine = of_server("prosody-0", "wall", &server(LinkState::Active, true, Some(LinkCause::Lost)));
        assert!(fine.green && fine.next.is_none() && fine.detail.contains("ACTIVE"), "{fine:?}");
    }

    #[test]
    fn cs_3_a_server_that_is_nearly_full_or_unknown_to_every_node_is_red() {
        let mut slow = server(LinkState::Active, true, None);
        slow.pending = 80;
        assert!(!of_server("prosody-0", "wall", &slow).green);
        let mut report = status::healthy();
        report.compliance_servers = vec!["wall".into()];
        assert!(!overview(&report).green);
        let known = report.pods[0].status.as_mut().expect("a status");
        known.compliance_servers.insert("wall".into(), server(LinkState::Active, true, None));
        assert!(
            overview(&report).lines.iter().all(|line| line.about != "compliance server wall" || line.green)
        );
    }

    #[test]
    fn cs_3_the_overview_has_colours_on_a_terminal_alone_and_a_silent_node_is_red() {
        let mut report = status::healthy();
        report.pods[0].status = None;
        let overview = overview(&report);
        assert!(!overview.green);
        let shown = |colours| {
            let mut out = Vec::new();
            show(&mut out, &overview, colours).expect("memory");
            String::from_utf8(out).expect("text")
        };
        assert!(shown(true).contains("\u{1b}[31mRED") && !shown(false).contains('\u{1b}'));
        assert!(shown(false).contains("next: kubectl describe pod prosody-0"), "{}", shown(false));
    }
}
