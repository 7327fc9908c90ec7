//! A request's body: JSON, bounded in bytes and time, and all bodies together in bytes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};

use crate::error::{ApiError, ApiResult};
use crate::state::ServerState;

/// Bytes of all bodies that are being read.
const MOST_AT_ONCE: usize = 256 << 20;

/// Reads a body of JSON.
///
/// # Errors
/// Another content type (415), a body that is too long (413), too slow (408), or cut off (400).
pub(crate) async fn json(state: &ServerState, request: Request) -> ApiResult<Bytes> {
    let (head, body) = request.into_parts();
    let kind =
        head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = "content-type: expected application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let most = state.limits.body_bytes;
    if body.size_hint().lower() > most as u64 {
        return Err(too_long(most));
    }
    match tokio::time::timeout(state.limits.body_time, read(state, body, most)).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

async fn read(state: &ServerState, mut body: Body, most: usize) -> ApiResult<Bytes> {
    let mut held = HeldBytes { all: &state.body_bytes, own: 0 };
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let cut = |_| ApiError::new(StatusCode::BAD_REQUEST, "the body ended early");
        let Ok(data) = frame.map_err(cut)?.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(too_long(most));
        }
        held.add(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

fn too_long(most: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {most} bytes"))
}

/// Bytes that a body being read holds of the sum of all.
struct HeldBytes<'a> {
    all: &'a AtomicUsize,
    own: usize,
}

impl HeldBytes<'_> {
    fn add(&mut self, bytes: usize) -> ApiResult<()> {
        self.own += bytes;
        if self.all.fetch_add(bytes, Ordering::Relaxed) + bytes > MOST_AT_ONCE {
            let message = "too many long requests at the same time";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message));
        }
        Ok(())
    }
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}
