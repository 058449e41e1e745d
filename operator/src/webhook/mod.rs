//! The webhooks: what they answer is in [`pods`], [`endpoints`] and [`compliance`], with which certificate in [`certificate`] and [`keeper`], or
//! in [`folder`] where something else makes it; here is the server, HTTP/1 over TLS.
//!
//! Invariants: each connection is greeted with the newest certificate; nothing that is sent to it makes it panic; a request larger
//! than any object can be is not read to its end.

pub mod certificate;
mod compliance;
mod endpoints;
pub mod folder;
pub mod keeper;
mod pods;
mod told;

use crate::inject::SidecarImage;
use crate::metrics::{Admission, Metrics};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use keeper::Tls;
use kube::Client;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use told::Told;

/// An object has 1.5 MiB at most; a review holds two, and some more.
const MAX_BODY: usize = 8 << 20;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the webhooks work with.
pub struct Webhooks {
    /// The API server.
    pub client: Client,
    /// The sidecar to inject.
    pub image: SidecarImage,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Tells refusals.
    told: Told,
}

impl Webhooks {
    /// The webhooks, ready to be [served](serve).
    #[must_use]
    pub fn new(client: Client, image: SidecarImage, metrics: Arc<Metrics>) -> Self {
        Self { told: Told::new(client.clone()), client, image, metrics }
    }

    fn count(&self, refused: &'static str) {
        self.metrics.admissions.get_or_create(&Admission { refused }).inc();
    }
}

/// Serves them until the future is dropped.
pub async fn serve(listener: TcpListener, tls: watch::Receiver<Tls>, webhooks: Arc<Webhooks>) {
    let router = Router::new()
        .route("/mutate-pods", post(mutate_pods))
        .route("/validate-archiveendpoints", post(validate_endpoints))
        .route("/validate-complianceservers", post(validate_servers))
        .route("/validate-profiles", post(validate_profiles))
        .route("/validate-xmppclusters", post(validate_clusters))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(webhooks);
    loop {
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                // Out of file descriptors, most likely: others must end first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(config) = tls.borrow().clone() else { continue };
        tokio::spawn(greet(connection, TlsAcceptor::from(config), router.clone()));
    }
}

async fn greet(connection: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(connection)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn mutate_pods(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    match request(&body) {
        Ok(request) => Json(pods::answer(&webhooks, &request).await.into_review()).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn validate_endpoints(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    match request(&body) {
        Ok(request) => Json(endpoints::answer(&webhooks, &request).await.into_review()).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn validate_servers(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    match request(&body) {
        Ok(request) => Json(compliance::server(&webhooks, &request).await.into_review()).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn validate_profiles(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    match request(&body) {
        Ok(request) => Json(compliance::profile(&webhooks, &request).await.into_review()).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn validate_clusters(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    match request(&body) {
        Ok(request) => Json(compliance::cluster(&webhooks, &request).await.into_review()).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// An answer that is no review makes the API server apply the failure policy.
fn request(body: &[u8]) -> Result<AdmissionRequest<DynamicObject>, (StatusCode, String)> {
    let wrong = |error: String| {
        (StatusCode::BAD_REQUEST, format!("this is no AdmissionReview with a request: {error}"))
    };
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    review.try_into().map_err(|_| wrong("it has none".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_review_is_refused() {
        for body in
            ["", "{}", "null", "[1]", r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#]
        {
            assert_eq!(request(body.as_bytes()).map(|_| ()).expect_err(body).0, StatusCode::BAD_REQUEST);
        }
    }
}
