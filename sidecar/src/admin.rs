//! The admin port: probes, status and metrics. It shows counts, names and reasons; no message text, no JIDs of users, no secrets (P8).
//!
//! - `/healthz`: the process is alive and so is the journal's writer; a restart would help if this fails.
//! - `/startedz`: plugin copied, socket open, journal open. The server is started after this, so it does not wait for the plugin.
//! - `/readyz`: all that, a configuration, a writable journal, and a plugin that has every host armed; else 503 and the reasons, one a line.
//! - `/dead-letters`: records an archive refused alone, by endpoint, as JSON; `POST /dead-letters/retry` has them tried again. It can
//!   do nothing else and so asks nobody who they are.
//! - `/status`: [`SidecarStatus`](cartulary_compliance::status::SidecarStatus) as JSON. `/metrics`: OpenMetrics.

use crate::alarms::now_micros;
use crate::app::App;
use crate::metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(|State(app): State<Arc<App>>| async move { answer(&app.unhealthy()) }))
        .route("/startedz", get(|State(app): State<Arc<App>>| async move { answer(&app.not_started()) }))
        .route("/readyz", get(|State(app): State<Arc<App>>| async move { answer(&app.not_ready()) }))
        .route("/status", get(|State(app): State<Arc<App>>| async move { Json(app.status()) }))
        .route("/metrics", get(page))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/retry", post(retry))
        .with_state(app)
}

fn answer(problems: &[String]) -> Response {
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
}

async fn page(State(app): State<Arc<App>>) -> Response {
    match metrics::page(app.status(), app.alarm_settings(), now_micros()) {
        Ok(page) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page)
                .into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn dead_letters(State(app): State<Arc<App>>) -> Response {
    match app.dead_letters().await {
        Ok(letters) => Json(letters).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn retry(State(app): State<Arc<App>>) -> StatusCode {
    app.retry_dead_letters();
    StatusCode::ACCEPTED
}
