//! A peer that speaks lines, servers within the process, and a clock that starts at zero.

use std::time::Duration;

use getty::{Closed, Connection, Drained, Pipeline, ServeError, net};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// Boxes a stack of messages behind lines, so that stacks of different types stand in one table.
///
/// A macro, because what it is given is bound by the closures in it, and not by a list of traits.
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

/// Whole seconds since a test began, whose time is paused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn at(self, second: u64) -> Instant {
        self.0 + Duration::from_secs(second)
    }

    /// To the nearest second: tokio's timers go by milliseconds.
    pub(crate) fn second(self) -> u64 {
        (self.0.elapsed() + Duration::from_millis(500)).as_secs()
    }
}

/// The other end of a connection.
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
        // a connection that is refused may be gone already; what is heard tells
        let _ = self.io.write_all(format!("{line}\n").as_bytes()).await;
    }

    /// Says that nothing more will be said.
    pub(crate) async fn finish(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// The next line; `None` at the end of the connection.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        // so that a test fails that would wait for ever
        let deadline = Instant::now() + Duration::from_secs(100);
        match self.hear_until(deadline).await {
            Heard::Line(line) => Some(line),
            Heard::End => None,
            Heard::Nothing => panic!("the peer heard nothing for too long"),
        }
    }

    /// The next line, if it comes until then.
    pub(crate) async fn hear_until(&mut self, deadline: Instant) -> Heard {
        let mut line = String::new();
        match timeout_at(deadline, self.io.read_line(&mut line)).await {
            Ok(Ok(0) | Err(_)) => Heard::End,
            Ok(Ok(_)) => Heard::Line(line.trim_end().to_owned()),
            Err(_) => Heard::Nothing,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Line(String),
    End,
    Nothing,
}

impl Heard {
    pub(crate) fn line(line: &str) -> Self {
        Self::Line(line.to_owned())
    }
}

/// A server on a task, and how to reach it.
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
            // dropped or sent, it is over
            let _ = stopped.await;
        });
        Self {
            connector,
            stop,
            task: tokio::spawn(async move { serve.await }),
        }
    }

    pub(crate) async fn dial(&self) -> Peer {
        let connection = self.connector.connect().await.unwrap();
        Peer::new(connection.into_parts().0)
    }

    pub(crate) async fn stop(self) -> Drained {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap()
    }
}

/// Runs one connection through `stack`, without a listener.
pub(crate) async fn open<S>(stack: &mut S) -> (Peer, JoinHandle<Result<Closed, getty::BoxError>>)
where
    S: Pipeline<DuplexStream>,
{
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    std::future::poll_fn(|cx| stack.poll_ready(cx))
        .await
        .map_err(Into::into)
        .unwrap();
    let future = stack.call(Connection::new(theirs));
    let task = tokio::spawn(async move { future.await.map_err(Into::into) });
    (Peer::new(ours), task)
}
