//! Shared helpers: a peer that sends and receives lines, an in-memory server, and a clock in
//! whole seconds.

use std::time::Duration;

use getty::{
    BoxError, BoxPipeline, Closed, Connection, Drained, Pipeline, Request, ServeError,
    SessionLayer, net, service_fn,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// Builds a boxed stack of the codec `LinesCodec`, a session layer and a message stack.
///
/// It is a macro because a function would need a long list of bounds for the message stack.
macro_rules! line_sessions {
    ($session_layer:expr, $messages:expr) => {
        getty::BoxPipeline::new(
            getty::ServiceBuilder::new()
                .layer(getty::CodecLayer::new(tokio_util::codec::LinesCodec::new()))
                .layer($session_layer)
                .service($messages),
        )
    };
}
pub(crate) use line_sessions;

pub(crate) async fn echo(request: Request<String>) -> Result<String, BoxError> {
    Ok(request.into_message())
}

/// Echoes each message after three seconds.
pub(crate) async fn slow_echo(request: Request<String>) -> Result<String, BoxError> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    echo(request).await
}

/// Returns a stack that echoes lines.
pub(crate) fn echo_sessions() -> BoxPipeline {
    line_sessions!(SessionLayer::new(), service_fn(echo))
}

/// Clock of a test with paused time. Returns whole seconds since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn at(self, second: u64) -> Instant {
        self.0 + Duration::from_secs(second)
    }

    /// Returns the current second. It is rounded, because tokio's timers may be late by a
    /// millisecond.
    pub(crate) fn second(self) -> u64 {
        (self.0.elapsed() + Duration::from_millis(500)).as_secs()
    }
}

/// The peer of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    io: BufReader<DuplexStream>,
}

impl Peer {
    pub(crate) fn new(io: DuplexStream) -> Self {
        Self {
            io: BufReader::new(io),
        }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        // If the connection was refused, the write may fail. The test sees that in `receive`.
        let _ = self.io.write_all(format!("{line}\n").as_bytes()).await;
    }

    /// Ends the peer's direction.
    pub(crate) async fn finish(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// Returns the next line. Returns `None` at the end of the connection.
    pub(crate) async fn receive(&mut self) -> Option<String> {
        // The deadline makes a test fail that would otherwise hang.
        let deadline = Instant::now() + Duration::from_secs(100);
        match self.receive_until(deadline).await {
            Received::Line(line) => Some(line),
            Received::End => None,
            Received::Nothing => panic!("no line within 100 seconds"),
        }
    }

    /// Waits for the next line until `deadline`.
    pub(crate) async fn receive_until(&mut self, deadline: Instant) -> Received {
        let mut line = String::new();
        match timeout_at(deadline, self.io.read_line(&mut line)).await {
            Ok(Ok(0) | Err(_)) => Received::End,
            Ok(Ok(_)) => Received::Line(line.trim_end().to_owned()),
            Err(_) => Received::Nothing,
        }
    }
}

/// Result of [`Peer::receive_until`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Line(String),
    /// The connection ended.
    End,
    /// The deadline passed.
    Nothing,
}

impl Received {
    pub(crate) fn line(line: &str) -> Self {
        Self::Line(line.to_owned())
    }
}

/// Connects to an in-memory listener.
pub(crate) async fn dial(connector: &net::MemoryConnector) -> Peer {
    Peer::new(connector.connect().await.unwrap().into_parts().0)
}

/// An in-memory server in a task.
#[derive(Debug)]
pub(crate) struct Server {
    connector: net::MemoryConnector,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Drained, ServeError>>,
}

impl Server {
    pub(crate) fn start(stack: impl Pipeline<DuplexStream>) -> Self {
        let (listener, connector) = net::memory(64 * 1024);
        let (stop, stopped) = oneshot::channel();
        let serve = getty::serve(listener, stack).with_graceful_shutdown(async {
            // A dropped sender shuts the server down too.
            let _ = stopped.await;
        });
        Self {
            connector,
            stop,
            task: tokio::spawn(async move { serve.await }),
        }
    }

    pub(crate) async fn dial(&self) -> Peer {
        dial(&self.connector).await
    }

    pub(crate) async fn stop(self) -> Drained {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap()
    }
}

/// Calls `stack` with one connection and without a listener.
pub(crate) async fn open<S>(stack: &mut S) -> (Peer, JoinHandle<Result<Closed, BoxError>>)
where
    S: Pipeline<DuplexStream>,
{
    let (peer_stream, server_stream) = tokio::io::duplex(64 * 1024);
    std::future::poll_fn(|cx| stack.poll_ready(cx))
        .await
        .map_err(Into::into)
        .unwrap();
    let future = stack.call(Connection::new(server_stream));
    let task = tokio::spawn(async move { future.await.map_err(Into::into) });
    (Peer::new(peer_stream), task)
}
