//! Health, readiness and metrics, without TLS: `/healthz`, `/readyz`, `/metrics`.

use crate::metrics::Metrics;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What has to happen before pods can be admitted and clusters are looked after.
#[derive(Clone)]
pub struct Readiness {
    scopes_missing: Arc<AtomicUsize>,
    trusted: watch::Receiver<bool>,
}

impl Readiness {
    /// Not ready yet: `scopes` are still unknown, and the API server does not trust the webhooks.
    #[must_use]
    pub fn new(scopes: usize, trusted: watch::Receiver<bool>) -> Self {
        Self { scopes_missing: Arc::new(AtomicUsize::new(scopes)), trusted }
    }

    /// One scope is known.
    pub fn scope_known(&self) {
        self.scopes_missing.fetch_sub(1, Ordering::Relaxed);
    }

    fn missing(&self) -> Option<&'static str> {
        if !*self.trusted.borrow() {
            return Some("the API server has not been told to trust the webhooks yet");
        }
        (self.scopes_missing.load(Ordering::Relaxed) > 0).then_some("not everything was listed yet")
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
