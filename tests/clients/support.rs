//! A server in memory that can be away, an echo to put there, and a client's stack.

use std::{
    future::Future,
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
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    task::JoinHandle,
    time::{self, Instant},
};

/// Where a server is, or is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    server: Mutex<Option<MemoryConnector>>,
    dials: Mutex<Vec<Instant>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Place {
    /// Dials the server of the moment. A dial of a place without one is refused at once.
    pub(crate) fn connector(
        &self,
    ) -> impl Service<(), Response = Connection<DuplexStream>, Error = io::Error, Future: Send>
    + Clone
    + Send
    + use<> {
        let place = self.clone();
        service_fn(move |()| {
            place.0.dials.lock().unwrap().push(Instant::now());
            let server = place.0.server.lock().unwrap().clone();
            let place = place.clone();
            async move {
                let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
                let connection = server.connect().await.map_err(io::Error::from)?;
                let open = place.0.open.fetch_add(1, SeqCst) + 1;
                place.0.most_open.fetch_max(open, SeqCst);
                connection
                    .handle()
                    .add_close_callback("test", "open", move |_| {
                        place.0.open.fetch_sub(1, SeqCst);
                    });
                Ok(connection)
            }
        })
    }

    /// Serves connections here with `stack`, until the server is killed.
    pub(crate) fn serve<S: Pipeline<DuplexStream>>(&self, stack: S) -> Server {
        let listener = self.listen();
        Server {
            place: self.clone(),
            task: tokio::spawn(async move {
                let _ = serve(listener, stack).await;
            }),
        }
    }

    /// A listener, to be used as the test likes.
    pub(crate) fn listen(&self) -> net::MemoryListener {
        let (listener, connector) = net::memory(1024);
        *self.0.server.lock().unwrap() = Some(connector);
        listener
    }

    /// When it was dialled, since `begin`.
    pub(crate) fn dials_since(&self, begin: Instant) -> Vec<Duration> {
        let dials = self.0.dials.lock().unwrap();
        let since = dials.iter().filter(|dial| **dial >= begin);
        since.map(|dial| *dial - begin).collect()
    }

    pub(crate) fn dials(&self) -> usize {
        self.0.dials.lock().unwrap().len()
    }

    /// How many connections are not closed on the client's side.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(SeqCst)
    }

    /// How many there were at most at a time.
    pub(crate) fn most_open(&self) -> usize {
        self.0.most_open.load(SeqCst)
    }
}

/// A server, which goes with all of its connections.
pub(crate) struct Server {
    place: Place,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.place.0.server.lock().unwrap() = None;
        self.task.abort();
    }
}

/// Answers each line with the same.
pub(crate) fn echo<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(
            |request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) },
        )
}

/// A client's stack, which passes on what it gets.
pub(crate) fn listening<T: Transport + Send + 'static>(
    link: LinkLayer<String>,
    got: mpsc::UnboundedSender<String>,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(link)
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let sent = got.send(request.into_message());
            async move { sent.map(|()| None::<String>) }
        })
}

/// A client's stack, which ignores what it gets.
pub(crate) fn deaf<T: Transport + Send + 'static>(
    link: LinkLayer<String>,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(link)
        .layer(SessionLayer::new())
        .service_fn(|_: Request<String>| async { Ok::<_, BoxError>(None::<String>) })
}

/// The settings of a client whose pauses are exactly 300 ms, 600 ms, ... 30 s.
pub(crate) fn even() -> ClientBuilder<String> {
    Client::builder().with_backoff(Backoff::default().with_jitter(0.0))
}

/// What `future` resolves to. With the clock paused, one that never does fails the test instead of hanging it.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    time::timeout(Duration::from_secs(24 * 3600), future)
        .await
        .expect("it would wait for ever")
}

/// Lets all tasks run until each of them waits. Only with the clock paused, which moves on when nothing else can.
pub(crate) async fn idle() {
    time::sleep(Duration::from_millis(1)).await;
}

/// How many tasks there are, once all that can end has.
pub(crate) async fn tasks() -> usize {
    idle().await;
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
