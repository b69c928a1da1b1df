//! Dialogues before the session. They may become TLS.

mod dialogue;
mod limits;
#[cfg(feature = "tls")]
mod tls;

use getty::{
    Attribute, BoxError, Closed, CodecLayer, Connection, NoReply, Pipeline, ServiceBuilder,
    Session, SessionLayer, SessionTask, Transport,
    codec::{Bytes, LengthDelimited, Lines},
    connect, handle,
    layers::CloseCallbackLayer,
    net::{MemoryConnector, memory},
    upgrade::OpeningError,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};
use tower::Service;

/// Name that a client has logged in with.
#[derive(Clone)]
struct User(String);

/// Server in memory.
struct Server {
    connector: MemoryConnector,
    ends: mpsc::UnboundedReceiver<Closed>,
}

impl Server {
    fn new(stack: impl Pipeline<DuplexStream> + Clone) -> Self {
        let (listener, connector) = memory(128 * 1024);
        let (end, ends) = mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .layer(CloseCallbackLayer::new("test", "end", move |closed| {
                let _ = end.send(closed.clone());
            }))
            .service(stack);
        tokio::spawn(async move { getty::serve(listener, stack).await });
        Self { connector, ends }
    }

    async fn dial(&self) -> DuplexStream {
        self.connector.connect().await.unwrap().into_parts().0
    }

    async fn end(&mut self) -> Closed {
        self.ends.recv().await.unwrap()
    }

    /// Returns the record of the next connection and the error of its dialogue.
    async fn refusal(&mut self) -> (Closed, OpeningError) {
        let closed = self.end().await;
        let source = closed.source.clone().expect("a refusal has a source");
        let error: &OpeningError = source.downcast_ref().expect("a typed error");
        (closed, error.clone())
    }
}

/// Returns the part of a stack that echoes frames behind the name of the user.
fn frames<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    let echo = |frame: Bytes, user: Option<Attribute<User>>| {
        let name = user.map_or(String::new(), |Attribute(User(name))| name);
        Bytes::from([name.as_bytes(), &frame].concat())
    };
    ServiceBuilder::new()
        .layer(CodecLayer::new(LengthDelimited::new()))
        .layer(SessionLayer::new())
        .service(handle(echo))
}

/// Returns the part of a stack that echoes lines in capital letters.
fn lines<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|line: String| line.to_uppercase()))
}

/// Opens a client's session of lines. Its messages go to the receiver.
async fn open_lines<C, T>(
    connector: C,
) -> Result<
    (
        Session<String>,
        SessionTask,
        mpsc::UnboundedReceiver<String>,
    ),
    getty::OpenError,
>
where
    C: Service<(), Response = Connection<T>, Error: Into<BoxError>>,
    T: Transport + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    let (session, task) = connect(connector, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(move |line: String| {
                let _ = sender.send(line);
                NoReply
            }))
    })
    .await?;
    Ok((session, task, receiver))
}

/// Sends `bytes` and returns `N` bytes of the answer.
async fn ask<const N: usize>(
    peer: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
) -> [u8; N] {
    let mut answer = [0; N];
    peer.write_all(bytes).await.unwrap();
    peer.flush().await.unwrap();
    peer.read_exact(&mut answer).await.unwrap();
    answer
}

/// Returns all bytes until the peer's end.
async fn rest(peer: &mut (impl AsyncRead + Unpin)) -> String {
    let mut rest = String::new();
    peer.read_to_string(&mut rest).await.unwrap();
    rest
}
