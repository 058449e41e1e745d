//! `cartulary status` in words: clusters, pods, journals and alarms, one below the other. What it says is decided elsewhere.

use super::{AnchorReport, ClusterReport, JournalReport, OperatorAlarm, PodReport};
use crate::{output, time};
use cartulary_compliance::alarms;
use cartulary_compliance::names::{label, reason};
use cartulary_compliance::status::LinkState;
use std::io::Write;

/// One XMPPCluster with everything below it.
pub fn show(out: &mut impl Write, report: &ClusterReport) -> anyhow::Result<()> {
    let verdict = if report.is_fine() { "all is well" } else { "needs attention" };
    writeln!(out, "XMPPCluster {}/{}: {verdict}", report.namespace, report.name)?;
    let rows: Vec<Vec<String>> = report
        .conditions
        .iter()
        .map(|c| {
            let old = if report.is_old(c) { " (of an older declaration)" } else { "" };
            vec![
                c.kind.clone(),
                c.status.clone(),
                format!("{}{old}", c.reason),
                output::printable(&c.message),
            ]
        })
        .collect();
    output::table(out, "  ", &rows)?;
    if rows.is_empty() {
        writeln!(out, "  no conditions yet: does the operator run?")?;
    }
    if report.pods.is_empty() {
        writeln!(
            out,
            "  no pods: give the server's pod template the label {}={}",
            label::CLUSTER,
            report.name
        )?;
    }
    for pod in &report.pods {
        show_pod(out, pod)?;
    }
    for claim in &report.retained_claims {
        // Where the operator says more of it, that is shown below.
        if !report.journals.iter().any(|journal| journal.claim.as_deref() == Some(claim)) {
            writeln!(out, "  journal claim {claim}: its pod is gone")?;
        }
    }
    for journal in &report.journals {
        show_journal(out, journal)?;
    }
    // Those of a node that answered are shown with it.
    let is_shown = |alarm: &OperatorAlarm| {
        report.pods.iter().any(|pod| {
            Some(&pod.name) == alarm.node.as_ref()
                && pod.alarms.iter().any(|shown| shown.alarm == alarm.alarm)
        })
    };
    for alarm in report.operator_alarms.iter().filter(|alarm| !is_shown(alarm)) {
        let about: Vec<String> = [("pod", &alarm.node), ("endpoint", &alarm.endpoint)]
            .iter()
            .filter_map(|(what, name)| Some(format!(" {what} {}", name.as_ref()?)))
            .collect();
        let known = alarms::ALL.iter().find(|known| known.name == alarm.alarm);
        let meaning = known.map(|known| format!(": {} {}", known.meaning, known.action)).unwrap_or_default();
        writeln!(out, "  ALARM {} ({}){}{meaning}", alarm.alarm, alarm.severity, about.join(","))?;
    }
    let lower = if report.complete { "" } else { "at least " };
    writeln!(out, "  waiting for the archive: {lower}{} records", report.waiting)?;
    Ok(())
}

fn show_journal(out: &mut impl Write, journal: &JournalReport) -> anyhow::Result<()> {
    let id = journal.journal.as_deref().unwrap_or("not known yet");
    let waiting = match journal.waiting {
        Some(waiting) if waiting > 0 => format!(", {waiting} records wait"),
        _ => String::new(),
    };
    writeln!(out, "  journal {id} of pod {}: {}{waiting}", journal.pod, journal.state)?;
    if let Some(message) = &journal.message {
        writeln!(out, "    {}", output::printable(message))?;
    }
    for AnchorReport { endpoint, sequence, at } in &journal.anchors {
        writeln!(out, "    anchored for endpoint {endpoint}: up to record {sequence}, signed {at}")?;
    }
    if journal.anchors.is_empty() {
        writeln!(out, "    not anchored")?;
    }
    Ok(())
}

fn show_pod(out: &mut impl Write, pod: &PodReport) -> anyhow::Result<()> {
    let Some(status) = &pod.status else {
        let problem = pod.problem.as_deref().unwrap_or("nothing is known of it");
        writeln!(out, "  pod {} ({}): {}", pod.name, pod.phase, output::printable(problem))?;
        return Ok(());
    };
    let ready = if status.ready { "ready" } else { "NOT READY" };
    writeln!(
        out,
        "  pod {}: {ready}, configuration generation {}, sidecar {}",
        pod.name, status.config.generation, status.version
    )?;
    if let Some(problem) = &status.config.problem {
        writeln!(out, "    configuration: the newest was not taken: {}", output::printable(problem))?;
    }
    let link = &status.link;
    if link.connected {
        let covered = link.hosts.iter().filter(|host| host.problem.is_none()).count();
        writeln!(
            out,
            "    server: {}, plugin {}, {covered} of {} hosts covered, {} sessions",
            output::printable(&link.server),
            output::printable(&link.plugin_version),
            link.hosts.len(),
            link.sessions
        )?;
    } else {
        writeln!(out, "    server: its plugin is not connected")?;
    }
    for host in link.hosts.iter() {
        if let Some(problem) = &host.problem {
            writeln!(out, "      {} is not covered: {}", host.name, output::printable(problem))?;
        }
    }
    for (name, endpoint) in &status.endpoints {
        let oldest = endpoint
            .oldest_waiting_micros
            .map(|micros| format!(" (oldest since {})", time::age_of_micros(micros)))
            .unwrap_or_default();
        writeln!(
            out,
            "    endpoint {name}: {}, {} waiting{oldest}, {} archived since start, {} dead letters",
            endpoint.state, endpoint.waiting, endpoint.archived, endpoint.dead_letters
        )?;
        if endpoint.state != reason::CONNECTED && !endpoint.message.is_empty() {
            writeln!(out, "      {}", output::printable(&endpoint.message))?;
        }
    }
    for (name, server) in &status.compliance_servers {
        let state = match (server.in_service, server.state) {
            (true, _) => "in service",
            (false, LinkState::Gone) => "GONE",
            (false, LinkState::Connected) => "CONNECTED, not in service",
            (false, LinkState::Active) => "ACTIVE, not in service",
        };
        let counts = &server.counts;
        writeln!(
            out,
            "    compliance server {name} at {} as {}: {state}, {} pending, {} asked, {} refused, {} timed out",
            server.address, server.component, server.pending, counts.asked, counts.errors, counts.timed_out
        )?;
        if !server.in_service && !server.message.is_empty() {
            writeln!(out, "      {}", output::printable(&server.message))?;
        }
    }
    for head in &status.heads {
        let confirmed = match &head.confirmed {
            Some(place) => format!("archived up to {}", place.sequence),
            None => "nothing of this start archived yet".to_owned(),
        };
        writeln!(
            out,
            "    stream of endpoint {}: recorded up to {}, {confirmed}, signed {} ago",
            head.endpoint,
            head.sequence,
            time::age_of_micros(head.at_nanos / 1000)
        )?;
    }
    for day in &status.days {
        let sums = day.sums;
        writeln!(
            out,
            "    {}: {} said, {} recorded, {} unrecorded as declared, {} refused, {} decided alone, {} ended before",
            day.day,
            sums.said,
            sums.recorded,
            sums.unrecorded,
            sums.refused,
            sums.refused_alone.saturating_add(sums.delivered_alone),
            sums.ended_before
        )?;
    }
    let counts = &status.counts;
    writeln!(
        out,
        "    since start: {} events, {} recorded, {} refused, {} delivered unrecorded",
        counts.events, counts.accepted, counts.refused, counts.delivered_unrecorded
    )?;
    if let Some(problem) = &status.journal.problem {
        writeln!(out, "    journal: {}", output::printable(problem))?;
    }
    if status.journal.damaged() > 0 {
        writeln!(out, "    journal: {} damaged places were passed over", status.journal.damaged())?;
    }
    for note in &status.notes {
        writeln!(out, "    note: {}", output::printable(note))?;
    }
    for alarm in &pod.alarms {
        let about = match (&alarm.endpoint, &alarm.server) {
            (Some(name), _) => format!(" endpoint {name}:"),
            (None, Some(name)) => format!(" compliance server {name}:"),
            (None, None) => String::new(),
        };
        let message = output::printable(&alarm.message);
        let silenced = if alarm.silenced { ", silenced" } else { "" };
        writeln!(
            out,
            "    ALARM {} ({}{silenced}):{about} {message}. {}",
            alarm.alarm, alarm.severity, alarm.action
        )?;
    }
    Ok(())
}
