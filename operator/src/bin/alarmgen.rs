//! Writes what is made from the catalogue of alarms (`compliance/src/alarms.rs`), or checks that what is written is what it says:
//! `charts/cartulary/files/prometheus-rules.yaml`, which the chart's PrometheusRule is rendered from and which a Prometheus without
//! its operator can load as it is, and `docs/alarms.md`.
//!
//! `cargo run -p cartulary-operator --bin alarmgen -- --write`

use cartulary_compliance::alarms::{self, Alarm};
use cartulary_compliance::names::metric;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const COMMAND: &str = "cargo run -p cartulary-operator --bin alarmgen -- --write";

fn main() -> ExitCode {
    // Asked when it runs: clones that share their build results must not look at each other's files.
    let folder =
        std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let root = Path::new(&folder).join("..");
    let files = [
        (root.join("charts/cartulary/files/prometheus-rules.yaml"), rules()),
        (root.join("docs/alarms.md"), page()),
    ];
    match std::env::args().nth(1).as_deref() {
        Some("--write") => write(&files),
        Some("--check") => check(&files),
        _ => {
            eprintln!("usage: alarmgen --write | --check");
            ExitCode::from(2)
        }
    }
}

fn write(files: &[(PathBuf, String)]) -> ExitCode {
    for (path, content) in files {
        if let Err(error) = std::fs::write(path, content) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn check(files: &[(PathBuf, String)]) -> ExitCode {
    let stale: Vec<_> = files
        .iter()
        .filter(|(path, content)| std::fs::read_to_string(path).ok().as_ref() != Some(content))
        .collect();
    for (path, _) in &stale {
        eprintln!("{} is not what the catalogue says: run `{COMMAND}`", path.display());
    }
    if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Alarms that are seen by what is missing, which nobody could raise.
fn expression(alarm: &Alarm) -> String {
    match alarm.name {
        name if name == alarms::OPERATOR_ABSENT.name => "absent(cartulary_operator_leader == 1)".to_owned(),
        // It is renewed with a month to go. Where cert-manager keeps it, the metric is 0.
        name if name == alarms::CERTIFICATE_EXPIRING.name => {
            "min by (namespace) (cartulary_operator_webhook_certificate_expires_seconds > 0) - time() < 7 * 86400"
                .to_owned()
        }
        name => {
            let raised = metric::ALARM;
            format!("max by (namespace, cluster, node, endpoint, server) ({raised}{{alarm=\"{name}\"}}) == 1")
        }
    }
}

fn rules() -> String {
    let mut text = format!(
        "# Made from compliance/src/alarms.rs by `{COMMAND}`. Do not edit.\n# A rule file as Prometheus loads it; the chart's \
         alerts.enabled makes a PrometheusRule of it.\ngroups:\n  - name: cartulary\n    rules:\n"
    );
    for alarm in alarms::ALL {
        // Text in JSON's quotes is text in YAML's.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let _ = write!(
            text,
            "      - alert: {}\n        expr: {}\n        for: {}s\n        labels:\n          severity: {}\n        \
             annotations:\n          summary: {}\n          description: {}\n",
            alarm.name,
            quoted(&expression(alarm)),
            alarm.patience_seconds,
            alarm.severity.word(),
            quoted(alarm.meaning),
            quoted(alarm.action),
        );
    }
    text
}

fn page() -> String {
    let mut text = format!(
        "<!-- Made from compliance/src/alarms.rs by `{COMMAND}`. Do not edit. -->
# Alarms

What somebody must be told of. A name never changes its meaning: it is the label `alarm` of the metric `{}` (1 while it is raised; of
sidecars and the operator alike, with the labels `namespace`, `cluster`, `node`, `endpoint` and `server`), the name of the alert, and the reason of events.

With the Prometheus operator, the chart's `alerts.enabled=true` makes a PrometheusRule and `monitors.enabled=true` what scrapes the
operator and the sidecars. Without it, load
[prometheus-rules.yaml](../charts/cartulary/files/prometheus-rules.yaml) and scrape with `honor_labels: true`. `alerts.overrides` changes or
silences one alert: `{{JournalHighWater: {{severity: info, for: 10m}}, OutcomesLost: {{enabled: false}}}}`. An XMPPCluster's `alarms.silenced` silences an
alarm itself, everywhere or on single nodes: it stays in the lists, marked, and gives no condition, Event, metric or line in a log.

`critical` means now: something is unrecorded, refused, or about to be. `warning` means during working hours. An alert fires when the alarm
has lasted as long as the third column says.

| alarm | severity | after | meaning | what to do |
|---|---|---|---|---|
",
        metric::ALARM
    );
    for alarm in alarms::ALL {
        let after = match alarm.patience_seconds {
            0 => "at once".to_owned(),
            seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
            seconds => format!("{seconds} s"),
        };
        let (severity, Alarm { name, meaning, action, .. }) = (alarm.severity.word(), alarm);
        let _ = writeln!(text, "| `{name}` | {severity} | {after} | {meaning} | {action} |");
    }
    text.push_str("\nThe expression of each is\n```promql\n");
    let example = Alarm { name: "NAME", ..alarms::ALL[0] };
    let _ =
        write!(text, "{}\n```\nbut for those that are seen by what is missing:\n\n", expression(&example));
    for alarm in alarms::ALL {
        let usual = expression(&Alarm { name: "NAME", ..*alarm }).replace("NAME", alarm.name);
        if expression(alarm) != usual {
            let _ = writeln!(text, "- `{}`: `{}`", alarm.name, expression(alarm));
        }
    }
    text
}
