//! Shared helpers: stacks for servers and clients, and an in-memory host whose server can be
//! stopped and restarted.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Connection, LinkLayer, Pipeline, Request, Service, ServiceBuilder,
    SessionLayer, Transport,
    client::{Backoff, Client, ClientBuilder},
    codec::Lines,
    net::{self, MemoryConnector},
    serve, service_fn,
};
use tokio::{io::DuplexStream, sync::mpsc, task::JoinHandle, time::Instant};

pub(crate) use crate::shared::{idle, soon};

/// An in-memory host. At most one server runs on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    server: Mutex<Option<MemoryConnector>>,
    /// Times of all dials.
    dials: Mutex<Vec<Instant>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Host {
    /// Returns a connector to the current server. Without a server a dial is refused at once.
    pub(crate) fn connector(
        &self,
    ) -> impl Service<(), Response = Connection<DuplexStream>, Error = io::Error, Future: Send>
    + Clone
    + Send
    + use<> {
        let host = self.clone();
        service_fn(move |()| {
            host.0.dials.lock().unwrap().push(Instant::now());
            let server = host.0.server.lock().unwrap().clone();
            let host = host.clone();
            async move {
                let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
                let connection = server.connect().await.map_err(io::Error::from)?;
                let open = host.0.open.fetch_add(1, SeqCst) + 1;
                host.0.most_open.fetch_max(open, SeqCst);
                connection
                    .handle()
                    .add_close_callback("test", "open", move |_| {
                        host.0.open.fetch_sub(1, SeqCst);
                    });
                Ok(connection)
            }
        })
    }

    /// Starts a server with `stack`. It runs until the returned value is dropped.
    pub(crate) fn serve<S: Pipeline<DuplexStream>>(&self, stack: S) -> Server {
        let listener = self.listen();
        Server {
            host: self.clone(),
            task: tokio::spawn(async move {
                let _ = serve(listener, stack).await;
            }),
        }
    }

    /// Returns a listener for tests that do not run a server.
    pub(crate) fn listen(&self) -> net::MemoryListener {
        let (listener, connector) = net::memory(1024);
        *self.0.server.lock().unwrap() = Some(connector);
        listener
    }

    /// Returns the times of all dials since `start`, relative to `start`.
    pub(crate) fn dials_since(&self, start: Instant) -> Vec<Duration> {
        let dials = self.0.dials.lock().unwrap();
        let since = dials.iter().filter(|dial| **dial >= start);
        since.map(|dial| *dial - start).collect()
    }

    /// Returns the number of dials.
    pub(crate) fn dials(&self) -> usize {
        self.0.dials.lock().unwrap().len()
    }

    /// Returns the number of connections that the client has not closed.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(SeqCst)
    }

    /// Returns the maximum number of connections that were open at the same time.
    pub(crate) fn most_open(&self) -> usize {
        self.0.most_open.load(SeqCst)
    }
}

/// A running server. A drop stops it and closes its connections.
pub(crate) struct Server {
    host: Host,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.host.0.server.lock().unwrap() = None;
        self.task.abort();
    }
}

/// Returns a server's stack that echoes lines.
pub(crate) fn echo<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(
            |request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) },
        )
}

/// Returns a client's stack that forwards its messages to a channel.
pub(crate) fn forwarding_client<T: Transport + Send + 'static>(
    link: LinkLayer<String>,
    sender: mpsc::UnboundedSender<String>,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(link)
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let sent = sender.send(request.into_message());
            async move { sent.map(|()| None::<String>) }
        })
}

/// Returns a client's stack that ignores its messages.
pub(crate) fn ignoring_client<T: Transport + Send + 'static>(
    link: LinkLayer<String>,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(link)
        .layer(SessionLayer::new())
        .service_fn(|_: Request<String>| async { Ok::<_, BoxError>(None::<String>) })
}

/// Returns a builder without jitter: the pauses are exactly 300 ms, 600 ms, ... 30 s.
pub(crate) fn without_jitter() -> ClientBuilder<String> {
    Client::builder().with_backoff(Backoff::default().with_jitter(0.0))
}

/// Returns the number of tasks after all that can complete have completed.
pub(crate) async fn tasks() -> usize {
    idle().await;
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
