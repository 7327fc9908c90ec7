//! The server's connections: accepted while there is room, served with bounds on heads and time, drained at the end.

mod guard;
mod router;
mod timed_io;

use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::arena::Arena;
use crate::limits::ServerLimits;
use crate::policy::ServedPolicy;
use crate::state::ServerState;
use crate::worker;
use guard::Guard;
use timed_io::TimedIo;

/// What is served, to whom, and until when.
pub struct ServeOptions {
    /// Where it listens; bound by the caller.
    pub listener: TcpListener,
    /// The policies; a request that names none is answered by the first.
    pub policies: Vec<ServedPolicy>,
    /// The key that every request but `/health` and the arena's page must bring.
    pub api_key: Option<String>,
    /// Bounds.
    pub limits: ServerLimits,
    /// The arena.
    pub arena: Arena,
    /// Asked ten times a second whether to stop.
    pub stops: Box<dyn Fn() -> bool + Send>,
}

/// Serves until `stops` says so; then takes no more connections, lets answers in progress end within
/// [`ServerLimits::grace`], and drops the rest. Returns whether all of them ended.
///
/// # Errors
/// The operating system's: threads, the listener.
pub fn serve(options: ServeOptions) -> io::Result<bool> {
    let ServeOptions { listener, policies, api_key, limits, arena, stops } = options;
    let mut handles = Vec::with_capacity(policies.len());
    let mut threads = Vec::with_capacity(policies.len());
    let mut turns = worker::DeviceTurns::default();
    for policy in policies {
        let turn = turns.of(policy.decoder.device().location());
        let (handle, thread) = worker::start(policy, turn)?;
        handles.push(handle);
        threads.push(thread);
    }
    let address = listener.local_addr()?;
    let state = Arc::new(ServerState::new(handles, limits, arena));
    let guard = Guard::new(api_key, address.ip());
    let router = router::router(state.clone(), guard);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("serve http")
        .enable_io()
        .enable_time()
        .build()?;
    listener.set_nonblocking(true)?;
    let drained = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok::<_, io::Error>(accept(&listener, &state, &router, &*stops).await)
    })?;
    // Connections that are left hold jobs; without them the policies' threads end.
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop((state, router));
    for thread in threads {
        let _ = thread.join();
    }
    Ok(drained)
}

async fn accept(
    listener: &tokio::net::TcpListener,
    state: &Arc<ServerState>,
    router: &Router,
    stops: &(dyn Fn() -> bool + Send),
) -> bool {
    const LOOKS: Duration = Duration::from_millis(100);
    let (drain, draining) = watch::channel(false);
    let mut connections: JoinSet<()> = JoinSet::new();
    let mut look = tokio::time::interval(LOOKS);
    loop {
        tokio::select! {
            _ = look.tick() => if stops() { break },
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < state.limits.connections => {
                    connections.spawn(connection(stream, state.clone(), router.clone(), draining.clone()));
                }
                // Closed at once: to answer would cost what there is too little of.
                Ok(_) => {
                    state.metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
                }
                // No descriptors, mostly; some are free again soon.
                Err(error) => {
                    tracing::warn!("a connection was not accepted: {error}");
                    tokio::time::sleep(LOOKS).await;
                }
            },
        }
    }
    state.drain();
    let _ = drain.send(true);
    let rest = async {
        let mut busy = Instant::now();
        // Whole answers have a second to go out; connections that ask nothing are not waited for.
        while !connections.is_empty() && busy.elapsed() < Duration::from_secs(1) {
            let _ = tokio::time::timeout(LOOKS, connections.join_next()).await;
            if state.active() > 0 {
                busy = Instant::now();
            }
        }
    };
    let drained = tokio::time::timeout(state.limits.grace, rest).await.is_ok() || state.active() == 0;
    connections.shutdown().await;
    drained
}

async fn connection(
    stream: TcpStream,
    state: Arc<ServerState>,
    router: Router,
    draining: watch::Receiver<bool>,
) {
    state.metrics.connections.fetch_add(1, Ordering::Relaxed);
    // Tokens of a stream are small, and each is waited for.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(TimedIo::new(stream, state.limits.write_time));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.limits.head_time)
        .max_buf_size(ServerLimits::HEAD_BYTES)
        .max_headers(ServerLimits::HEADERS)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = told(draining) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
    state.metrics.connections.fetch_sub(1, Ordering::Relaxed);
}

/// Waits until the server drains.
async fn told(mut draining: watch::Receiver<bool>) {
    // An error is a server that is gone.
    let _ = draining.wait_for(|&draining| draining).await;
}
