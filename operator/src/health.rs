//! Health, readiness and metrics, without TLS: `/healthz`, `/readyz`, `/metrics`.

use crate::metrics::Metrics;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What has to happen before pods can be admitted and clusters are looked after.
#[derive(Clone)]
pub struct Readiness {
    scopes_missing: Arc<AtomicUsize>,
    trusted: watch::Receiver<bool>,
    leading: watch::Receiver<bool>,
    served: Arc<AtomicBool>,
}

impl Readiness {
    /// Not ready yet: `scopes` are still unknown, and the API server does not trust the webhooks.
    #[must_use]
    pub fn new(scopes: usize, trusted: watch::Receiver<bool>, leading: watch::Receiver<bool>) -> Self {
        Self { scopes_missing: Arc::new(AtomicUsize::new(scopes)), trusted, leading, served: Arc::default() }
    }

    /// One scope is known.
    pub fn scope_known(&self) {
        let one_less = |missing: usize| Some(missing.saturating_sub(1));
        let _ = self.scopes_missing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    fn missing(&self) -> Option<&'static str> {
        if !*self.trusted.borrow() {
            return Some("the API server has not been told to trust the webhooks yet");
        }
        // Who was ready to admit pods stays so when it comes to lead, while it looks around.
        let unknown = *self.leading.borrow() && self.scopes_missing.load(Ordering::Relaxed) > 0;
        if unknown && !self.served.load(Ordering::Relaxed) {
            return Some("not everything was listed yet");
        }
        self.served.store(true, Ordering::Relaxed);
        None
    }
}

/// Serves them until the future is dropped.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
) -> std::io::Result<()> {
    let ready = move || async move {
        match readiness.missing() {
            None => (StatusCode::OK, "ready"),
            Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
        }
    };
    let metrics = move || async move {
        let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        metrics.text().map(|text| (kind, text)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "alive" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    axum::serve(listener, router).await
}
