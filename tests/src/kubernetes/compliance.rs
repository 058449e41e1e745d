//! Compliance servers of the kit as pods, each behind a Service and declared, and what sidecars and servers tell of the questions.
//!
//! A pod is not started again when its server is killed: it comes back when a test says so.

use super::Cluster;
use anyhow::{Context, Result};
use cartulary_compliance::names::{ADMIN_PORT, component_name};
use cartulary_compliance::status::{ComplianceServerStatus, SidecarStatus};
use serde_json::Value;

const PORT: u16 = 5347;

impl Cluster {
    /// Declares the compliance server `name` and starts it: the kit's `program` with these `arguments`, known to the pods `nodes`.
    pub fn compliance_server(
        &self,
        namespace: &str,
        name: &str,
        nodes: &[&str],
        program: &str,
        arguments: &[&str],
    ) -> Result<()> {
        self.apply_in(
            namespace,
            &format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: compliance}}\nstringData: {{password: open sesame}}\n---\n\
                 apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  \
                 ports: [{{port: {PORT}}}]\n---\n\
                 apiVersion: cartulary.dev/v1alpha1\nkind: ComplianceServer\nmetadata: {{name: {name}}}\nspec:\n  \
                 host: {name}\n  port: {PORT}\n  passwordSecret: {{name: compliance}}\n  tls: {{mode: Disable}}\n  \
                 keepalive: 2s\n"
            ),
        )?;
        self.start_compliance_server(namespace, name, nodes, program, arguments)
    }

    /// Starts its pod, again where it has ended.
    pub fn start_compliance_server(
        &self,
        namespace: &str,
        name: &str,
        nodes: &[&str],
        program: &str,
        arguments: &[&str],
    ) -> Result<()> {
        self.kubectl(&["-n", namespace, "delete", "pod", name, "--ignore-not-found", "--grace-period=1"])?;
        let mut command = vec![program.to_owned(), format!("--listen=0.0.0.0:{PORT}")];
        command.push("--password-file=/etc/compliance/password".to_owned());
        command.extend(nodes.iter().map(|node| format!("--component={}", component_name(name, node))));
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let command = serde_json::to_string(&command)?;
        self.apply_in(
            namespace,
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  restartPolicy: Never\n  \
                 containers:\n    - name: server\n      image: localhost/cartulary-kit:dev\n      imagePullPolicy: IfNotPresent\n      \
                 command: {command}\n      volumeMounts: [{{name: password, mountPath: /etc/compliance, readOnly: true}}]\n  \
                 volumes: [{{name: password, secret: {{secretName: compliance}}}}]\n"
            ),
        )
        .map(drop)
    }

    /// What a sidecar says of itself.
    pub fn sidecar_status(&self, namespace: &str, pod: &str) -> Result<SidecarStatus> {
        Ok(serde_json::from_str(&self.sidecar_page(namespace, pod, "status")?)?)
    }

    /// A page of a sidecar's admin port.
    pub fn sidecar_page(&self, namespace: &str, pod: &str, page: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{ADMIN_PORT}/proxy/{page}");
        self.kubectl(&["get", "--raw", &path])
    }

    /// Waits until the links of these pods to a compliance server are as `wanted`.
    pub fn links(
        &self,
        namespace: &str,
        nodes: &[&str],
        server: &str,
        what: &str,
        wanted: impl Fn(&ComplianceServerStatus) -> bool,
    ) -> Result<()> {
        let mut last = Vec::new();
        self.eventually(&format!("{server}: {what}"), || {
            last.clear();
            for node in nodes {
                last.extend(self.sidecar_status(namespace, node)?.compliance_servers.remove(server));
            }
            Ok((last.len() == nodes.len() && last.iter().all(&wanted)).then_some(()))
        })
        .with_context(|| format!("the links to {server} were {last:#?}"))
    }

    /// What a compliance server's pod has printed: its lines of JSON.
    pub fn compliance_log(&self, namespace: &str, name: &str) -> Result<Vec<Value>> {
        let printed = self.kubectl(&["-n", namespace, "logs", &format!("pod/{name}"), "--tail=-1"])?;
        Ok(printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}
